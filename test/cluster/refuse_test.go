package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/pki"

	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Refuse_StrangersDoNotJoin starts nodes that do not belong to the cluster. They do not join
// it, and both sides log the reason.
func Test_Refuse_StrangersDoNotJoin(t *testing.T) {
	c, _ := harness.StartClusterWithImages(t, 3, 1, harness.Config{"log": map[string]any{"level": "info"}})
	hasLine := func(n *harness.Node, parts []string) bool {
		for _, line := range strings.Split(n.Log(), "\n") {
			all := true
			for _, p := range parts {
				all = all && strings.Contains(line, p)
			}
			if all {
				return true
			}
		}
		return false
	}
	awaitLine := func(n *harness.Node, parts ...string) {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, n.Name+" logs "+strings.Join(parts, " … "), func() bool { return hasLine(n, parts) })
	}
	awaitLineOfMember := func(parts ...string) {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, "a member logs "+strings.Join(parts, " … "), func() bool {
			return slices.ContainsFunc(c.Nodes[:3], func(n *harness.Node) bool { return hasLine(n, parts) })
		})
	}
	stranger := func(over map[string]any) *harness.Node {
		n := c.Add()
		n.Override(over)
		n.Launch()
		return n
	}

	// Another CA.
	dir := t.TempDir()
	other, err := pki.IssueCert(dir, pki.CertIdentity{Cluster: harness.ClusterName, Role: pki.RoleNode, Name: "n3"}, false)
	if err != nil {
		t.Fatal(err)
	}
	n := stranger(map[string]any{"cluster": map[string]any{"tls": map[string]any{"ca": other.CA, "crt": other.Cert, "key": other.Key}}})
	awaitLine(n, "waits for its cluster", "certificate")
	awaitLineOfMember("refused a connection to the peer port")
	n.Kill()

	// Another cluster of the same CA.
	files := c.Certs(pki.CertIdentity{Cluster: "elsewhere", Role: pki.RoleNode, Name: "n4"})
	n = stranger(map[string]any{"cluster": map[string]any{"name": "elsewhere", "tls": map[string]any{"ca": files.CA, "crt": files.Cert, "key": files.Key}}})
	awaitLine(n, "waits for its cluster", "elsewhere")
	awaitLineOfMember("refused a connection to the peer port", "certificate")
	n.Kill()

	// Other sealing keys: it could not open the secrets of the other nodes, nor they its own.
	keys := filepath.Join(t.TempDir(), "sealing.json")
	if err := secrets.NewKeyFile(keys); err != nil {
		t.Fatal(err)
	}
	n = stranger(map[string]any{"sealing": map[string]any{"keyFile": keys}})
	awaitLine(n, "waits for its cluster", "sealing keys", "give it the same key file")
	awaitLineOfMember("refused a node that wants to join", n.Name, "sealing keys")
	n.Kill()

	// The data directory of a node of another cluster.
	foreign, _ := harness.StartClusterWithImages(t, 1, 1, harness.Config{})
	foreign.Nodes[0].Stop()
	n = c.Add()
	if err := os.CopyFS(filepath.Join(n.Dir, "data"), os.DirFS(filepath.Join(foreign.Nodes[0].Dir, "data"))); err != nil {
		t.Fatal(err)
	}
	n.Launch()
	select {
	case <-n.Exited():
		awaitLine(n, "n0") // the name of the node to which the directory belongs
	case <-time.After(30 * time.Second):
		t.Error("a node starts over the data of another one")
	}

	res, err := c.Nodes[0].Members(t.Context(), false)
	if err != nil || len(res.Members) != 3 {
		t.Fatalf("the cluster has %d members (%v), want the 3 it had", len(res.GetMembers()), err)
	}
}
