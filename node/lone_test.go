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

// lone is a node of the replicated state alone, which leads.
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

func (n *Node) openLone(t *testing.T) {
	t.Helper()
	if err := n.cluster.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.commitAs(t, &buildsv1.NodeStarted{Name: "n0", StoreId: n.cluster.StoreID(), BootId: n.bootID, Capacity: 4, Runtimes: []string{"copy"}})
	n.started.Store(true)
}

func (n *Node) commitAs(t *testing.T, payload proto.Message) builds.Result {
	t.Helper()
	res, _, err := builds.Propose(t.Context(), n.raft, payload)
	if err != nil {
		t.Fatalf("%T: %v", payload, err)
	}
	return res
}

func (n *Node) saved(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := n.cluster.SaveSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// until waits for changes of the state.
func (n *Node) until(t *testing.T, what string, holds func(*builds.State) bool) {
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
