package netns

import (
	"net"
	"slices"
	"testing"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Cluster is a cluster with one host for each node. The test and the registry are on the bridge
// between the hosts.
type Cluster struct {
	*harness.Cluster
	Net *Net
	// Refs are the references of images in the registry.
	Refs []string
}

// StartCluster runs nodes that form one cluster, each on a host of its own.
func StartCluster(t testing.TB, nodes int) *Cluster {
	t.Helper()
	n := New(t, nodes)
	l, err := net.Listen("tcp", n.Gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	reg := registrytest.Start(t, registrytest.Options{Addr: addr})
	var hosts []harness.Host
	for _, h := range n.Hosts {
		hosts = append(hosts, harness.Host{IP: h.IP, Command: h.Command()})
	}
	c := &Cluster{Net: n, Refs: harness.PushImages(t, reg, 30)}
	c.Cluster = harness.StartClusterOn(t, hosts, addr, harness.Config{
		"registry": map[string]any{"insecureHosts": []string{addr}, "allowHosts": []string{addr}},
		"log":      map[string]any{"level": "info"},
	})
	return c
}

// Host returns the host of a node.
func (c *Cluster) Host(n *harness.Node) *Host { return c.Net.Hosts[slices.Index(c.Nodes, n)] }
