//go:build kubernetes

package chart

import (
	"context"
	"net"
	"testing"

	"github.com/miekg/dns"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serveNames starts a DNS server on port 53. Like the DNS of a cluster, it resolves the names of
// headless services and of their pods to the endpoints in Kubernetes. The kubelet does not
// configure it: pods must name it as their server.
func serveNames(t *testing.T, address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(address, "53"))
	if err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan struct{}), make(chan error, 1)
	server := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		_ = w.WriteMsg(resolve(t.Context(), req)) // the client retries
	})}
	go func() { ended <- server.ActivateAndServe() }()
	select {
	case <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func resolve(ctx context.Context, req *dns.Msg) *dns.Msg {
	res := new(dns.Msg).SetReply(req)
	if len(req.Question) != 1 {
		res.Rcode = dns.RcodeFormatError
		return res
	}
	q := req.Question[0]
	found, err := addresses(ctx, dns.SplitDomainName(q.Name))
	switch {
	case err != nil:
		res.Rcode = dns.RcodeServerFailure
	case len(found) == 0:
		res.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeA:
		for _, ip := range found {
			res.Answer = append(res.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: ip})
		}
	}
	return res
}

// addresses returns the addresses of [POD.]SERVICE.NAMESPACE.svc.cluster.local.
func addresses(ctx context.Context, labels []string) (out []net.IP, err error) {
	pod := ""
	if len(labels) == 6 {
		pod, labels = labels[0], labels[1:]
	}
	if len(labels) != 5 || labels[2] != "svc" || labels[3] != "cluster" || labels[4] != "local" {
		return nil, nil
	}
	slices, err := kube.Client.DiscoveryV1().EndpointSlices(labels[1]).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + labels[0]})
	if err != nil {
		return nil, err
	}
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if pod != "" && (e.Hostname == nil || *e.Hostname != pod) || e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, a := range e.Addresses {
				out = append(out, net.ParseIP(a))
			}
		}
	}
	return out, nil
}
