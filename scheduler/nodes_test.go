package scheduler

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// oneNode is a cluster whose only node has the given health.
type oneNode struct {
	healthyNodes
	boot            string
	silent, stalled time.Duration
	dead            bool
}

func (n oneNode) Peer(string, string) (string, time.Duration, bool) { return n.boot, n.silent, n.dead }

func (n oneNode) Stalled(string, string) (string, time.Duration) {
	return "a write of a log of a build", n.stalled
}

// Test_LostNodes: a node is lost if its process has ended, or if it was silent or made no progress
// for LostAfter. It gets no attempts after half of that time. A node of version 0.3.0 reports no
// progress, which is no stall.
func Test_LostNodes(t *testing.T) {
	const after = 6 * time.Second
	for name, c := range map[string]struct {
		node  oneNode
		takes bool
		lost  string // part of the reason; empty if the node is not lost
	}{
		"healthy":                    {oneNode{boot: "b"}, true, ""},
		"without reports":            {oneNode{boot: "b", stalled: 0}, true, ""},
		"silent":                     {oneNode{boot: "b", silent: after + 1}, false, "has not responded"},
		"silent for a while":         {oneNode{boot: "b", silent: after}, false, ""},
		"dead":                       {oneNode{boot: "b", dead: true}, false, "its process ended"},
		"a former process is dead":   {oneNode{boot: "a", dead: true}, false, ""},
		"a slow write":               {oneNode{boot: "b", stalled: after/2 - 1}, true, ""},
		"a write that may hang":      {oneNode{boot: "b", stalled: after}, false, ""},
		"a write that hangs":         {oneNode{boot: "b", stalled: after + 1}, false, "a write of a log of a build has been in progress"},
		"a write of another process": {oneNode{boot: "a", stalled: after + 1}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := schedulertest.NewWorld(t, 1)
			w.Apply(&buildsv1.SetFeatureLevel{Level: 2})
			o := LeaderOptions{Store: w.Store, Nodes: c.node, LostAfter: after, Log: slog.New(slog.DiscardHandler)}
			if got := NewLeader(o).alive(w.Store.View().Node("n0")); got != c.takes {
				t.Errorf("it gets attempts: %v, want %v", got, c.takes)
			}
			watcher := &nodeWatcher{LeaderOptions: o, since: map[string]time.Time{}, ended: map[string]string{}}
			reason := ""
			for _, l := range watcher.lostNodes() {
				reason = l.Reason
			}
			if (reason == "") != (c.lost == "") || !strings.Contains(reason, c.lost) {
				t.Errorf("the reason of its loss is %q, want %q", reason, c.lost)
			}
		})
	}
}

// Test_LostNodes_GoesOn checks that a leader ends the attempts that a former leader has left to a
// lost node.
func Test_LostNodes_GoesOn(t *testing.T) {
	w := schedulertest.NewWorld(t, 2000, 1)
	w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	for range 1030 {
		w.Create("a")
		w.Assign(w.Assignment("n1"))
	}
	w.Apply(&buildsv1.NodeLost{Name: "n0", StoreId: "s", BootId: "b"})
	o := LeaderOptions{Store: w.Store, Raft: &schedulertest.Raft{W: w}, Nodes: healthyNodes{}, LostAfter: time.Hour, Log: slog.New(slog.DiscardHandler)}
	watcher := &nodeWatcher{LeaderOptions: o, since: map[string]time.Time{}, ended: map[string]string{}}
	if n := w.Store.View().Owned("n0"); n != 6 {
		t.Fatalf("%d attempts are left", n)
	}
	watcher.check(t.Context())
	if n := w.Store.View().Owned("n0"); n != 0 {
		t.Errorf("%d attempts are left after a check", n)
	}
	if lost := watcher.lostNodes(); len(lost) != 0 {
		t.Errorf("the node is lost once more: %v", lost)
	}
}
