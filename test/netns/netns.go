// Package netns runs each process of a test on its own host: a network namespace on a bridge. The
// test can drop packets between the hosts. It needs root, iproute2 and iptables.
package netns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Net is a bridge with hosts on it. The test itself is on the bridge, too.
type Net struct {
	t testing.TB
	// Gateway is the test's own address.
	Gateway string
	Hosts   []*Host
	bridge  string
}

// Host is one network namespace.
type Host struct {
	Name, IP string
	net      *Net
	// redirected means that Redirect has added rules.
	redirected bool
}

var (
	mu   sync.Mutex
	made int
)

// New makes a network with the given number of hosts, until the test ends. It first removes
// networks that killed tests left.
func New(t testing.TB, hosts int) *Net {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	sweep()
	made++
	id := fmt.Sprintf("%d-%d", os.Getpid(), made)
	subnet := fmt.Sprintf("10.%d.%d", 100+os.Getpid()/250%100, (os.Getpid()+made)%250)
	n := &Net{t: t, Gateway: subnet + ".1", bridge: "ibb" + id}
	t.Cleanup(n.remove)
	n.ip("link", "add", n.bridge, "type", "bridge")
	n.ip("addr", "add", n.Gateway+"/24", "dev", n.bridge)
	n.ip("link", "set", n.bridge, "up")
	for i := range hosts {
		h := &Host{Name: fmt.Sprintf("ibn%s-%d", id, i), IP: fmt.Sprintf("%s.%d", subnet, 10+i), net: n}
		n.Hosts = append(n.Hosts, h)
		outer := fmt.Sprintf("ibv%s-%d", id, i)
		n.ip("netns", "add", h.Name)
		n.ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", h.Name)
		n.ip("link", "set", outer, "master", n.bridge, "up")
		n.ip("-n", h.Name, "addr", "add", h.IP+"/24", "dev", "eth0")
		n.ip("-n", h.Name, "link", "set", "eth0", "up")
		n.ip("-n", h.Name, "link", "set", "lo", "up")
	}
	return n
}

func run(args ...string) error {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (n *Net) ip(args ...string) {
	n.t.Helper()
	if err := run(append([]string{"ip"}, args...)...); err != nil {
		n.t.Fatal(err)
	}
}

func (n *Net) remove() {
	for _, h := range n.Hosts {
		_ = run("ip", "netns", "del", h.Name)
	}
	_ = run("ip", "link", "del", n.bridge)
}

// sweep removes namespaces and bridges of test processes that have ended.
func sweep() {
	gone := func(name, prefix string) bool {
		pid := 0
		_, err := fmt.Sscanf(strings.TrimPrefix(name, prefix), "%d-", &pid)
		return err == nil && syscall.Kill(pid, 0) == syscall.ESRCH
	}
	entries, _ := os.ReadDir("/var/run/netns")
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "ibn") && gone(e.Name(), "ibn") {
			_ = run("ip", "netns", "del", e.Name())
		}
	}
	links, _ := os.ReadDir("/sys/class/net")
	for _, l := range links {
		if strings.HasPrefix(l.Name(), "ibb") && gone(l.Name(), "ibb") {
			_ = run("ip", "link", "del", l.Name())
		}
	}
}

// Command returns the words to put before a command that runs on the host. The command keeps the
// process id.
func (h *Host) Command() []string { return []string{"ip", "netns", "exec", h.Name} }

func (h *Host) iptables(args ...string) {
	h.net.t.Helper()
	if err := run(append([]string{"ip", "netns", "exec", h.Name, "iptables", "-w"}, args...)...); err != nil {
		h.net.t.Fatal(err)
	}
}

// Deaf drops all packets that the hosts from send to h. Packets from h still arrive.
func (h *Host) Deaf(from ...*Host) {
	h.net.t.Helper()
	for _, o := range from {
		h.iptables("-A", "INPUT", "-s", o.IP, "-j", "DROP")
	}
}

// Part drops all packets between the hosts a and the hosts b, in both directions.
func (n *Net) Part(a, b []*Host) {
	n.t.Helper()
	for _, h := range a {
		h.Deaf(b...)
	}
	for _, h := range b {
		h.Deaf(a...)
	}
}

// Vanish drops all packets from and to the host, as if it lost power: no connection is closed.
func (h *Host) Vanish() {
	h.net.t.Helper()
	h.iptables("-A", "INPUT", "!", "-i", "lo", "-j", "DROP")
	h.iptables("-A", "OUTPUT", "!", "-o", "lo", "-j", "DROP")
}

// Lossy drops incoming packets at random with the given probability: 0.1 means one of ten.
func (h *Host) Lossy(probability float64) {
	h.net.t.Helper()
	h.iptables("-A", "INPUT", "!", "-i", "lo", "-m", "statistic", "--mode", "random", "--probability", fmt.Sprint(probability), "-j", "DROP")
}

// Slow limits the outgoing bandwidth of the host, in kilobits a second.
func (h *Host) Slow(kbit int) {
	h.net.t.Helper()
	h.net.ip("netns", "exec", h.Name, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", fmt.Sprintf("%dkbit", kbit), "burst", "16kb", "latency", "200ms")
}

// Redirect leads the connections of the host to a port of another host to the address to, host:port of
// a listener on the bridge. Present connections break.
func (h *Host) Redirect(other *Host, port, to string) {
	h.net.t.Helper()
	h.redirected = true
	match := []string{"OUTPUT", "-p", "tcp", "-d", other.IP, "--dport", port}
	h.iptables(append(append([]string{"-t", "nat", "-A"}, match...), "-j", "DNAT", "--to-destination", to)...)
	h.iptables(append(append([]string{"-A"}, match...), "-j", "REJECT", "--reject-with", "tcp-reset")...)
}

// Heal ends all faults of the network.
func (n *Net) Heal() {
	n.t.Helper()
	for _, h := range n.Hosts {
		h.iptables("-F")
		if h.redirected {
			h.iptables("-t", "nat", "-F")
			h.redirected = false
		}
		_ = run("ip", "netns", "exec", h.Name, "tc", "qdisc", "del", "dev", "eth0", "root") // fails if there is none
	}
}

// Dial connects from the host, so that it reaches listeners on the loopback of the host.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer own.Close()
	there, err := os.Open("/var/run/netns/" + h.Name)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter %s: %w", h.Name, err)
	}
	conn, dialErr := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("leave %s: %w", h.Name, err) // the thread stays locked and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return conn, dialErr
}

// Others returns all hosts but one.
func (n *Net) Others(not *Host) (out []*Host) {
	for _, h := range n.Hosts {
		if h != not {
			out = append(out, h)
		}
	}
	return out
}
