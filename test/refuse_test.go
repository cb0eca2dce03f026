package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/pki"

	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Test_Refuse_StrangersDoNotJoin starts nodes that do not belong to the
// cluster: they do not join it, and both sides say why.
func Test_Refuse_StrangersDoNotJoin(t *testing.T) {
	c, _ := startClusterWith(t, 3, 1, harness.Config{"log": map[string]any{"level": "info"}})
	said := func(n *harness.Node, parts ...string) {
		t.Helper()
		harness.Eventually(t, 30*time.Second, n.Name+" says "+strings.Join(parts, " … "), func() bool {
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
		})
	}
	anyOfThree := func(parts ...string) {
		t.Helper()
		harness.Eventually(t, 30*time.Second, "a member says "+strings.Join(parts, " … "), func() bool {
			for _, n := range c.Nodes[:3] {
				for _, line := range strings.Split(n.Log(), "\n") {
					all := true
					for _, p := range parts {
						all = all && strings.Contains(line, p)
					}
					if all {
						return true
					}
				}
			}
			return false
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
	said(n, "waits for its cluster", "certificate")
	anyOfThree("refused a connection to the peer port")
	n.Kill()

	// Another cluster of the same CA.
	files := c.Certs(pki.CertIdentity{Cluster: "elsewhere", Role: pki.RoleNode, Name: "n4"})
	n = stranger(map[string]any{"cluster": map[string]any{"name": "elsewhere", "tls": map[string]any{"ca": files.CA, "crt": files.Cert, "key": files.Key}}})
	said(n, "waits for its cluster", "elsewhere")
	anyOfThree("refused a connection to the peer port", "certificate")
	n.Kill()

	// Other sealing keys: it could open no secret, and nobody its own.
	keys := filepath.Join(t.TempDir(), "sealing.json")
	if err := secrets.NewKeyFile(keys); err != nil {
		t.Fatal(err)
	}
	n = stranger(map[string]any{"sealing": map[string]any{"keyFile": keys}})
	said(n, "waits for its cluster", "sealing keys", "give it the same key file")
	anyOfThree("refused a node that wants to join", n.Name, "sealing keys")
	n.Kill()

	// The data directory of a member of another cluster.
	foreign, _ := startClusterWith(t, 1, 1, harness.Config{})
	foreign.Nodes[0].Stop()
	n = c.Add()
	if err := os.CopyFS(filepath.Join(n.Dir, "data"), os.DirFS(filepath.Join(foreign.Nodes[0].Dir, "data"))); err != nil {
		t.Fatal(err)
	}
	n.Launch()
	select {
	case <-n.Exited():
		said(n, "n0") // the directory is of another node
	case <-time.After(30 * time.Second):
		t.Error("a node starts over the data of another one")
	}

	res, err := c.Nodes[0].Members(t.Context(), false)
	if err != nil || len(res.Members) != 3 {
		t.Fatalf("the cluster has %d members (%v), want the 3 it had", len(res.GetMembers()), err)
	}
}
