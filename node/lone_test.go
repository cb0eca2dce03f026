package node

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds/secrets"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/config"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/owner"
)

// lone returns a node that consists of the replicated state only: a cluster of one node, which
// openAlone opens.
func lone(t *testing.T, dir string) *Node {
	t.Helper()
	n := &Node{log: slog.New(slog.DiscardHandler), store: builds.NewStore(), bootID: "boot"}
	n.cfg.Name, n.cfg.DataDir, n.work = "n0", dir, t.Context()
	n.cfg.Owner.Lease = config.Duration(time.Second)
	keys := filepath.Join(t.TempDir(), "keys.json")
	if err := secrets.NewKeyFile(keys); err != nil {
		t.Fatal(err)
	}
	var err error
	if n.keyring, err = secrets.LoadKeyring(keys); err != nil {
		t.Fatal(err)
	}
	if n.cluster, err = cluster.New(cluster.Config{
		Name: "n0", DataDir: dir, StateMachine: n.store, CheckSnapshot: n.checkSnapshot, FeatureLevel: builds.FeatureLevel, CommittedLevel: n.level,
		Prepare: builds.Preparer{Keyring: n.keyring}.Prepare, SegmentBytes: 1 << 20,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.cluster.Close() })
	n.raft, n.owner = raftAdapter{n.cluster}, owner.New(owner.Options{})
	return n
}

// openAlone opens the cluster of the node and registers its process.
func (n *Node) openAlone(t *testing.T) {
	t.Helper()
	if err := n.cluster.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.mustCommit(t, &buildsv1.NodeStarted{Name: "n0", StoreId: n.cluster.StoreID(), BootId: n.bootID, Capacity: 4, Runtimes: []string{"copy"}})
	n.started.Store(true)
}

// mustCommit commits a command and returns its result.
func (n *Node) mustCommit(t *testing.T, payload proto.Message) builds.Result {
	t.Helper()
	res, _, err := builds.Propose(t.Context(), n.raft, payload)
	if err != nil {
		t.Fatalf("%T: %v", payload, err)
	}
	return res
}

// savedSnapshot returns a snapshot of the state.
func (n *Node) savedSnapshot(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := n.cluster.SaveSnapshot(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// awaitState waits until the state meets a condition.
func (n *Node) awaitState(t *testing.T, what string, holds func(*builds.State) bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		changed := n.store.Changed()
		if holds(n.store.View()) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatal("timed out: ", what)
		}
	}
}
