package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/pki"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/image-builder-ha/image-builder/builds/secrets"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
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

// Override changes the configuration of one node, from its next start on.
func (n *Node) Override(over Config) { merge(n.config, clone(over)) }

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

func clone(m map[string]any) map[string]any {
	out := maps.Clone(m)
	for k, v := range out {
		if inner, ok := v.(map[string]any); ok {
			out[k] = clone(inner)
		}
	}
	return out
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

// AwaitReady waits until a launched node is ready.
func (n *Node) AwaitReady() {
	n.t.Helper()
	testkit.Eventually(n.t, 60*time.Second, "node "+n.Name+" is ready", func() bool {
		if !n.Alive() {
			n.t.Fatalf("the node ended (%v):\n%s", n.cmd.ProcessState, tail(n.Log(), 20))
		}
		_, code := n.Get("http://" + n.Health + "/ready")
		return code == http.StatusOK
	})
}

// Alive reports whether the process of the node runs.
func (n *Node) Alive() bool {
	if n.cmd == nil || n.done == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Socket returns the address of the node's unix socket in the form that the command line takes.
func (n *Node) Socket() string { return "unix://" + filepath.Join(n.Dir, "op.sock") }

// Operator returns a client of the node's unix socket.
func (n *Node) Operator() imagebuilderv1.ClusterClient {
	n.t.Helper()
	return imagebuilderv1.NewClusterClient(n.OperatorConn())
}

// OperatorConn returns a connection to the node's unix socket.
func (n *Node) OperatorConn() *grpc.ClientConn {
	n.t.Helper()
	conn, err := grpc.NewClient(n.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Members returns the members of the cluster as the node knows them. With stale the node need not
// have a leader.
func (n *Node) Members(ctx context.Context, stale bool) (*imagebuilderv1.MembersResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return n.Operator().Members(ctx, &imagebuilderv1.MembersRequest{Stale: stale})
}

// Hurt replaces the active faults of a node. The node must be compiled with the tag faults.
func (n *Node) Hurt(state map[string]any) {
	n.t.Helper()
	raw, err := json.Marshal(state)
	if err != nil {
		n.t.Fatal(err)
	}
	res, err := n.post("http://"+n.Pprof+"/faults", string(raw))
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		n.t.Fatalf("the node refuses the faults: %s", res.Status)
	}
}

// post sends a POST request from the host of the node.
func (n *Node) post(url, body string) (*http.Response, error) {
	tr := &http.Transport{DialContext: n.dial, DisableKeepAlives: true}
	return (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Post(url, "application/json", strings.NewReader(body))
}

// Kill9 sends SIGKILL and does not wait.
func (n *Node) Kill9() { _ = n.cmd.Process.Kill() }

// AwaitExit waits until the process has ended.
func (n *Node) AwaitExit() { <-n.done }

// Signal sends a signal to the process of the node.
func (n *Node) Signal(sig os.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(sig); err != nil {
		n.t.Fatal(err)
	}
}

// AwaitAnswer waits until the process of the node responds to its liveness probe, which it does
// after the start of Raft.
func (n *Node) AwaitAnswer() {
	n.t.Helper()
	testkit.Eventually(n.t, 60*time.Second, "node "+n.Name+" is live", func() bool {
		if !n.Alive() {
			n.t.Fatalf("the node ended (%v):\n%s", n.cmd.ProcessState, tail(n.Log(), 20))
		}
		_, code := n.Get("http://" + n.Health + "/live")
		return code == http.StatusOK
	})
}
