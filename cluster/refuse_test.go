package cluster_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/gossip"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// notes is a log that can be read while it is written.
type notes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(p)
}

// has reports whether one line of the log contains all parts.
func (n *notes) has(parts ...string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for line := range strings.SplitSeq(n.b.String(), "\n") {
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

func (n *notes) logger() *slog.Logger { return slog.New(slog.NewTextHandler(n, nil)) }

// Test_Refuse_NewNodes starts nodes that must not become members. Both sides must log the reason,
// and the node must wait.
func Test_Refuse_NewNodes(t *testing.T) {
	var members notes
	g := newGroup(t)
	keyFiles := func(name string) *gossip.Keys {
		path := filepath.Join(t.TempDir(), name)
		if err := gossip.NewKeyFile(path); err != nil {
			t.Fatal(err)
		}
		keys, err := gossip.LoadKeys(path)
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	shared := keyFiles("shared")
	sealing := func(ids ...string) func() []string {
		return func() (out []string) {
			for _, id := range ids {
				out = append(out, "sealing/"+id)
			}
			return out
		}
	}
	sound := func(c *cluster.Config) {
		c.Keys = sealing("k1", "k2")
		c.FeatureLevel, c.CommittedLevel = 3, func() uint32 { return 3 }
		c.Gossip = &gossip.Options{Address: "127.0.0.1:0", Keys: shared}
	}
	for i := range 3 {
		g.start(fmt.Sprintf("n%d", i), sound, func(c *cluster.Config) { c.Logger = members.logger() })
	}
	g.leader()
	for name, x := range map[string]struct {
		change func(*cluster.Config)
		says   []string // logged on both sides
	}{
		"other sealing keys":  {func(c *cluster.Config) { c.Keys = sealing("k3") }, []string{"sealing keys", "k3", "k1 k2", "same key file"}},
		"another gossip key":  {func(c *cluster.Config) { c.Gossip.Keys = keyFiles("other") }, []string{"gossip keys", "same key file"}},
		"a low feature level": {func(c *cluster.Config) { c.FeatureLevel = 2; c.CommittedLevel = nil }, []string{"feature level 2", "the cluster is at 3", "newer version"}},
	} {
		t.Run(name, func(t *testing.T) {
			var own notes
			who := strings.ReplaceAll(name, " ", "-")
			m := g.start(who, sound, x.change, func(c *cluster.Config) { c.Logger = own.logger() })
			testkit.Eventually(t, time.Minute, "a member logs which node it refuses, and why", func() bool {
				return members.has(append([]string{"refused a node that wants to", who}, x.says...)...)
			})
			testkit.Eventually(t, time.Minute, "the node logs why it waits", func() bool { return own.has(append([]string{"waits for its cluster"}, x.says...)...) })
			if s := m.Status(); s.ClusterID != "" {
				t.Errorf("the node is of cluster %q", s.ClusterID)
			}
			g.stop(who)
		})
	}
	for _, m := range g.leader().Members() {
		if !strings.HasPrefix(m.Name, "n") {
			t.Errorf("%s is a member", m.Name)
		}
	}
	// During a rotation one key in common is enough. A node of an older version names no keys.
	for name, keys := range map[string]func() []string{"rotating": sealing("k2", "k3"), "older": nil} {
		g.start(name, sound, func(c *cluster.Config) { c.Keys = keys })
		testkit.Eventually(t, time.Minute, "it joins: "+name, func() bool { return g.get(name).Status().LeaderName != "" })
	}
}

// Test_Refuse_AnotherCluster brings a member of another cluster with the same name and CA among the
// nodes. The two clusters must stay separate.
func Test_Refuse_AnotherCluster(t *testing.T) {
	g, other := three(t), newGroup(t)
	other.certs = g.certs
	// The other cluster has three nodes, so that the one that is started here has no leader and
	// tries to join.
	for i := range 3 {
		other.start(fmt.Sprintf("x%d", i))
	}
	other.leader()
	id := other.get("x2").Status().ClusterID
	for i := range 3 {
		other.stop(fmt.Sprintf("x%d", i))
	}
	var members, own notes
	g.stop("n2")
	g.start("n2", func(c *cluster.Config) { c.Logger = members.logger() })
	g.leader()
	g.start("x2", func(c *cluster.Config) { c.DataDir, c.Logger = filepath.Join(other.dir, "x2"), own.logger() })
	testkit.Eventually(t, time.Minute, "the member logs which node it refuses", func() bool {
		return members.has("refused a node", "x2/", "belongs to another cluster", id)
	})
	testkit.Eventually(t, time.Minute, "the node logs why it waits", func() bool { return own.has("waits for its cluster", "another cluster", id) })
	for _, m := range g.get("n2").Members() {
		if m.Name == "x2" {
			t.Error("x2 is a member")
		}
	}
}
