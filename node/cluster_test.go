package node

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
)

// Test_Discover_DNS checks that peers are the addresses of a DNS name, looked up at each call, and
// those of the configuration.
func Test_Discover_DNS(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	pods := []string{"10.0.0.1", "10.0.0.2"}
	setPods := func(ips ...string) {
		mu.Lock()
		defer mu.Unlock()
		pods = ips
	}
	dnsServer := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		res := new(dns.Msg).SetReply(q)
		mu.Lock()
		for _, ip := range pods {
			if h := (dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}); q.Question[0].Qtype == dns.TypeA {
				res.Answer = append(res.Answer, &dns.A{Hdr: h, A: net.ParseIP(ip)})
			}
		}
		if len(pods) == 0 {
			res.Rcode = dns.RcodeNameError
		}
		mu.Unlock()
		_ = w.WriteMsg(res)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = dnsServer.ActivateAndServe() })
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		_ = dnsServer.Shutdown()
		serving.Wait()
	})

	n := &Node{cfg: config.Config{Cluster: config.Cluster{Peers: []string{"10.0.0.9:1"}, DNS: "image-builder.test:27951"}}}
	check := func(want ...string) {
		t.Helper()
		got, err := n.discover(t.Context())
		slices.Sort(got)
		if !slices.Equal(got, want) || (err != nil) != (len(want) == 1) {
			t.Errorf("peers %v, %v; want %v", got, err, want)
		}
	}
	check("10.0.0.1:27951", "10.0.0.2:27951", "10.0.0.9:1")
	setPods("10.0.0.3")
	check("10.0.0.3:27951", "10.0.0.9:1")
	setPods() // the name does not exist
	check("10.0.0.9:1")
}

// Test_Discover_KubernetesUnavailable checks that configured peers are returned, with an error, if
// Kubernetes cannot be queried.
func Test_Discover_KubernetesUnavailable(t *testing.T) {
	n := &Node{cfg: config.Config{Cluster: config.Cluster{Peers: []string{"a:1"}, Kubernetes: config.KubernetesPeers{Namespace: "n", Service: "s"}}}}
	n.kubernetesAPI = func() (kubernetes.Client, error) { return kubernetes.Connect("/nowhere", 0, 0) }
	got, err := n.discover(t.Context())
	if len(got) != 1 || got[0] != "a:1" || err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("got %v, %v", got, err)
	}
}
