package registry

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// AddressPolicy says which addresses may be dialed on behalf of a request.
// Private networks are allowed, because registries inside of a cluster live
// there; loopback, link-local, unspecified, multicast and cloud metadata
// addresses are not.
type AddressPolicy struct {
	// AllowHosts may have any address: names or name:port, matched exactly.
	AllowHosts []string
	// AllowLoopback allows loopback addresses for every name. For development.
	AllowLoopback bool
}

// AddressError says that a host was not dialed because of its address.
type AddressError struct {
	Host string
	Addr netip.Addr
}

// Error names host and address and tells how to allow them.
func (e *AddressError) Error() string {
	return fmt.Sprintf("the address %s of %q may not be reached from requests; allow the host in the configuration if it is meant", e.Addr, e.Host)
}

const (
	dialTimeout = 10 * time.Second
	keepAlive   = 30 * time.Second
)

// GuardedDial answers a dial function that refuses addresses by the policy,
// with an *AddressError. The check is made on the very address that is then
// connected to, so a name cannot change between check and use, and redirects
// are checked as well. A dial takes at most 10 seconds.
func GuardedDial(policy AddressPolicy) func(ctx context.Context, network, addr string) (net.Conn, error) {
	allowed := newHostSet(policy.AllowHosts...)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
		if !allowed.has(addr) {
			d.Control = func(_, resolved string, _ syscall.RawConn) error {
				return policy.check(addr, resolved)
			}
		}
		return d.DialContext(ctx, network, addr)
	}
}

// check decides about a resolved ip:port of the host that addr names.
func (p AddressPolicy) check(addr, resolved string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	ap, err := netip.ParseAddrPort(resolved)
	if err != nil {
		return fmt.Errorf("check the address of %q: not an IP address and port", host)
	}
	ip := embedded(ap.Addr())
	if p.AllowLoopback && ip.IsLoopback() {
		return nil
	}
	if refused(ip) {
		return &AddressError{Host: host, Addr: ip}
	}
	return nil
}

// refusedNetworks are the metadata and platform services of clouds outside of
// the link-local range, and networks that are no hosts.
var refusedNetworks = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),          // this host, RFC 1122
	netip.MustParsePrefix("255.255.255.255/32"), // broadcast
	netip.MustParsePrefix("fd00:ec2::254/128"),  // AWS metadata
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google metadata
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure platform
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba metadata
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle metadata
}

func refused(ip netip.Addr) bool {
	if ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast() {
		return true
	}
	for _, n := range refusedNetworks {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052

// embedded answers the IPv4 address inside of an IPv6 one that stands for it,
// without a zone.
func embedded(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	if nat64.Contains(ip) {
		b := ip.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return ip
}
