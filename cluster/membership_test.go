package cluster_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/raftlog"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Join_DuringARemoval removes a voter while the leader records a new address of it. The voter
// must not come back with a vote.
func Test_Join_DuringARemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t)
		lead := g.leader()
		gone := g.nodes[g.others(lead.cfg.Name)[0]]
		id := gone.ServerID()
		from := &clusterv1.Identity{Cluster: cluster.DefaultCluster, ClusterId: lead.Status().ClusterID, ServerId: id, Address: "elsewhere:1", FeatureLevel: 1}
		unlock := lead.LockMembership()
		conn, err := g.nodes[g.others(lead.cfg.Name, gone.cfg.Name)[0]].LeaderConn()
		if err != nil {
			t.Fatal(err)
		}
		joined := make(chan error, 1)
		go func() {
			_, err := clusterv1.NewPeerClient(conn).Join(t.Context(), &clusterv1.JoinRequest{From: from})
			joined <- err
		}()
		time.Sleep(100 * time.Millisecond) // simulated: the call waits for the lock
		if err := lead.RemoveNow(id); err != nil {
			t.Fatal(err)
		}
		unlock()
		if err := <-joined; err == nil || !strings.Contains(err.Error(), "ask again") {
			t.Errorf("the new address of a removed node: %v", err)
		}
		for _, m := range lead.Members() {
			if m.ServerID == id && m.Voter {
				t.Errorf("the removed node votes again")
			}
		}
	})
}

// Test_Alone_RefusesAMemberWithoutALog starts a node without peers whose directory belongs to a
// member of a cluster that has not received the log yet, or to a node that has promised to form one.
func Test_Alone_RefusesAMemberWithoutALog(t *testing.T) {
	for _, c := range []struct{ name, identity, want string }{
		{"a member", `{"name":"n1","store_id":"s","initialized":true,"cluster_id":"c"}`, "it has joined cluster c"},
		{"a promise", `{"name":"n1","store_id":"s","promised":"c","proposer":"n0"}`, `it has promised to form cluster c with node "n0"`},
		{"a first start that was killed", `{"name":"n1","store_id":"s","initialized":true,"cluster_id":"s","bootstrap":[{"id":"n1/s","address":"n1","voter":true}]}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			n := open(t, fastConfig(dir, &tally{})) // makes the files of the log
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			for _, f := range []string{"wal", "snapshots", "written"} {
				if err := os.RemoveAll(filepath.Join(dir, f)); err != nil {
					t.Fatal(err)
				}
			}
			if strings.Contains(c.identity, "initialized") {
				emptyLog(t, dir)
			}
			if err := os.WriteFile(filepath.Join(dir, "identity.json"), []byte(c.identity), 0o600); err != nil {
				t.Fatal(err)
			}
			n, err := tryOpen(t, fastConfig(dir, &tally{}))
			if err == nil {
				defer n.Close()
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("the start: %v, want %q", err, c.want)
			}
		})
	}
}

// emptyLog makes the files of a log without entries in a data directory, as the first start of a
// member leaves them before the leader has sent anything.
func emptyLog(t *testing.T, dir string) {
	t.Helper()
	log, err := raftlog.Open(raftlog.Options{Dir: dir, SegmentBytes: 1 << 20, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(log.Verify(0, func(*raft.Log) {}), log.Close()); err != nil {
		t.Fatal(err)
	}
}
