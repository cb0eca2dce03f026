package harness

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/cluster/pki"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Cluster is a cluster whose nodes are real processes.
type Cluster struct {
	t        testing.TB
	Dir      string
	registry string
	over     Config
	peers    []string
	hosts    []Host
	// Expect is the number of nodes that form the cluster.
	Expect int
	Nodes  []*Node
}

// Host is where a node runs, if it is not the host of the test.
type Host struct {
	IP      string
	Command []string // goes before the command of the node
	// Dial connects from the host, so that it reaches the host's loopback.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// StartClusterOn runs a cluster with one node on each host, and returns when all nodes are ready.
func StartClusterOn(t testing.TB, hosts []Host, registryAddr string, over Config) *Cluster {
	t.Helper()
	return startCluster(newCluster(t, len(hosts), registryAddr, over, hosts))
}

// NewClusterOn prepares a cluster with one node on each host, without starting it.
func NewClusterOn(t testing.TB, hosts []Host, registryAddr string, over Config) *Cluster {
	t.Helper()
	return newCluster(t, len(hosts), registryAddr, over, hosts)
}

// StartCluster runs n nodes that form one cluster, and returns when all of them are ready.
func StartCluster(t testing.TB, n int, registryAddr string, over Config) *Cluster {
	t.Helper()
	return startCluster(NewCluster(t, n, registryAddr, over))
}

func startCluster(c *Cluster) *Cluster {
	c.t.Helper()
	for _, node := range c.Nodes {
		node.Launch()
	}
	for _, node := range c.Nodes {
		node.AwaitReady()
	}
	return c
}

// NewCluster prepares n nodes that form one cluster, without starting them.
func NewCluster(t testing.TB, n int, registryAddr string, over Config) *Cluster {
	t.Helper()
	return newCluster(t, n, registryAddr, over, nil)
}

func newCluster(t testing.TB, n int, registryAddr string, over Config, hosts []Host) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Dir: t.TempDir(), registry: registryAddr, over: over, Expect: n, hosts: hosts}
	if err := secrets.NewKeyFile(c.keyFile()); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if hosts != nil {
			c.peers = append(c.peers, hosts[i].IP+":7800")
		} else {
			c.peers = append(c.peers, testkit.FreeAddr(t))
		}
	}
	if c.over == nil {
		c.over = Config{}
	}
	for i := range n {
		c.Nodes = append(c.Nodes, c.prepare(i, c.peers[i]))
	}
	return c
}

func (c *Cluster) keyFile() string { return filepath.Join(c.Dir, "sealing.json") }

// Add prepares one more node, which joins the cluster when it is started.
func (c *Cluster) Add() *Node {
	c.t.Helper()
	node := c.prepare(len(c.Nodes), testkit.FreeAddr(c.t))
	c.Nodes = append(c.Nodes, node)
	return node
}

// Override changes the configuration of all nodes from their next start on. It applies to nodes
// that Add prepares later, too.
func (c *Cluster) Override(over Config) {
	merge(c.over, clone(over))
	for _, n := range c.Nodes {
		merge(n.config, clone(over))
	}
}

// Certs issues a certificate of the CA of the cluster.
func (c *Cluster) Certs(id pki.CertIdentity) pki.CertFiles {
	c.t.Helper()
	files, err := pki.IssueCert(filepath.Join(c.Dir, "certs"), id, false)
	if err != nil {
		c.t.Fatal(err)
	}
	return files
}

// ClusterName is the name of all test clusters.
const ClusterName = "test"

// Config returns the section `cluster` of the configuration of a node.
func (c *Cluster) Config(name, peerAddr string) map[string]any {
	files := c.Certs(pki.CertIdentity{Cluster: ClusterName, Role: pki.RoleNode, Name: name})
	return map[string]any{
		"name": ClusterName, "address": peerAddr, "peers": c.peers, "expect": c.Expect,
		"tls": map[string]any{"ca": files.CA, "crt": files.Cert, "key": files.Key},
	}
}

func (c *Cluster) prepare(i int, peerAddr string) *Node {
	c.t.Helper()
	name := fmt.Sprintf("n%d", i)
	dir := filepath.Join(c.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	over := Config{}
	merge(over, map[string]any{
		"name": name, "peerAddress": peerAddr, "cluster": c.Config(name, peerAddr),
		"sealing": map[string]any{"keyFile": c.keyFile()},
	})
	merge(over, clone(c.over))
	var n *Node
	if c.hosts != nil {
		h := c.hosts[i]
		n = newNode(c.t, &Node{
			t: c.t, Dir: dir, GRPC: h.IP + ":8080", Metrics: h.IP + ":9500", Health: h.IP + ":9501", Pprof: "127.0.0.1:6060", before: h.Command, dial: h.Dial,
		}, c.registry, over)
	} else {
		n = New(c.t, dir, c.registry, over)
	}
	n.Name, n.Peer = name, peerAddr
	return n
}

// Leader waits until a node leads, and returns it.
func (c *Cluster) Leader() *Node {
	c.t.Helper()
	var lead *Node
	testkit.Eventually(c.t, 30*time.Second, "one node leads", func() bool {
		lead = c.leads()
		return lead != nil
	})
	return lead
}

func (c *Cluster) leads() *Node {
	for _, n := range c.Running() {
		body, code := n.Get("http://" + n.Metrics + "/metrics")
		if code == http.StatusOK && strings.Contains(body, "\nimage_builder_leader 1\n") {
			return n
		}
	}
	return nil
}

// Running returns the nodes whose processes run.
func (c *Cluster) Running() (out []*Node) {
	for _, n := range c.Nodes {
		if n.Alive() {
			out = append(out, n)
		}
	}
	return out
}

// Others returns the running nodes other than not.
func (c *Cluster) Others(not *Node) []*Node {
	return slices.DeleteFunc(c.Running(), func(n *Node) bool { return n == not })
}
