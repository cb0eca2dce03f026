package harness

import (
	"net/http"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Start runs a node over a registry, and returns when it is ready.
func Start(t testing.TB, registryAddr string, over Config) *Node {
	t.Helper()
	n := New(t, t.TempDir(), registryAddr, over)
	n.Run()
	return n
}

// Run starts the process and waits until it is ready.
func (n *Node) Run() {
	n.t.Helper()
	n.Launch()
	n.AwaitReady()
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
