package registry_test

import (
	"errors"
	"net"
	"testing"

	"github.com/image-builder-ha/image-builder/registry"
)

// refusedBy reports whether a dial was refused by the policy.
func refusedBy(t *testing.T, p registry.AddressPolicy, addr string) bool {
	t.Helper()
	conn, err := registry.GuardedDial(p)(t.Context(), "tcp", addr)
	if err == nil {
		_ = conn.Close()
	}
	var refused *registry.AddressError
	return errors.As(err, &refused)
}

func TestGuardedDial_RefusesSpecialAddresses(t *testing.T) {
	for _, addr := range []string{
		"127.0.0.1:80", "127.1.2.3:80", "localhost:80", "[::1]:80", "[::ffff:127.0.0.1]:80",
		"0.0.0.0:80", "[::]:80", "169.254.169.254:80", "[fe80::1%lo]:80", "224.0.0.1:80", "[ff02::1%lo]:80",
		"[64:ff9b::7f00:1]:80", "[fd00:ec2::254]:80", "168.63.129.16:80", "100.100.100.200:80",
	} {
		if !refusedBy(t, registry.AddressPolicy{}, addr) {
			t.Errorf("%s was not refused", addr)
		}
	}
}

func TestGuardedDial_AllowsWhatIsConfigured(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, c := range []struct {
		name   string
		policy registry.AddressPolicy
		host   string
		want   bool
	}{
		{"nothing", registry.AddressPolicy{}, "localhost", false},
		{"loopback", registry.AddressPolicy{AllowLoopback: true}, "localhost", true},
		{"the host", registry.AddressPolicy{AllowHosts: []string{"localhost"}}, "localhost", true},
		{"the host in capitals", registry.AddressPolicy{AllowHosts: []string{"LOCALHOST"}}, "localhost", true},
		{"the host and port", registry.AddressPolicy{AllowHosts: []string{"localhost:" + port}}, "localhost", true},
		{"another port", registry.AddressPolicy{AllowHosts: []string{"localhost:1"}}, "localhost", false},
		{"another name of the address", registry.AddressPolicy{AllowHosts: []string{"localhost"}}, "127.0.0.1", false},
		{"an ending of the name", registry.AddressPolicy{AllowHosts: []string{"host"}}, "localhost", false},
		{"an empty host", registry.AddressPolicy{AllowHosts: []string{""}}, "localhost", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := !refusedBy(t, c.policy, net.JoinHostPort(c.host, port)); got != c.want {
				t.Errorf("allowed = %v, want %v", got, c.want)
			}
		})
	}
}
