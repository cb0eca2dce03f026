package registry

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// AddressPolicy decides which addresses may be dialed on behalf of a request. Private networks are
// allowed, because registries inside a cluster use them. Loopback, link-local, unspecified,
// multicast and cloud metadata addresses are refused.
type AddressPolicy struct {
	// AllowHosts lists hosts that may have any address. An entry is a name or name:port and is
	// matched exactly.
	AllowHosts []string
	// AllowLoopback allows loopback addresses for every name. It is meant for development.
	AllowLoopback bool
}

// AddressError reports that a host was not dialed because its address is refused.
type AddressError struct {
	Host string
	Addr netip.Addr
}

// Error names the host and the address, and says how to allow them.
func (e *AddressError) Error() string {
	return fmt.Sprintf("the address %s of %q may not be reached from requests; if this is intended, allow the host in the configuration", e.Addr, e.Host)
}

const (
	dialTimeout = 10 * time.Second
	keepAlive   = 30 * time.Second
)

// GuardedDial returns a dial function that refuses addresses by the policy, with an *AddressError.
// The check sees the resolved address that the connection then uses. So a name cannot change
// between check and use, and redirects are checked too. A dial takes at most 10 seconds.
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

// check applies the policy to resolved (ip:port), to which the host in addr was resolved.
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

// refusedNetworks lists metadata and platform services of clouds outside the link-local range, and
// networks that hold no hosts.
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

// embedded returns the IPv4 address that an IPv4-mapped or NAT64 address contains; any other
// address is returned unchanged, without its zone.
func embedded(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	if nat64.Contains(ip) {
		b := ip.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return ip
}
