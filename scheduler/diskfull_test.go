package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// noRoom are logs on a full disk: they cannot be opened, or not be completed.
type noRoom struct {
	silent
	opens bool
}

var errNoRoom = fmt.Errorf("%w (%w)", logs.ErrNoSpace, syscall.ENOSPC)

func (d noRoom) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	if !d.opens {
		return nil, errNoRoom
	}
	return d, nil
}

func (d noRoom) Seal(context.Context) (int64, string, error) { return 0, "", errNoRoom }

// Test_DiskFull_IsTheNodes: an attempt whose log finds no room ends as its
// node's, after the leader could ask the node how it is, and the next one
// begins on another node.
func Test_DiskFull_IsTheNodes(t *testing.T) {
	for name, disk := range map[string]noRoom{"opened": {}, "completed": {opens: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, 1)
				raft := &oneNode{w: w}
				ring := newKeyring(t)
				w.ask("a")
				a := w.decide().assign[0]
				w.apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
				tags := &slowTags{tags: map[string]string{}, held: make(chan struct{}), here: make(chan struct{})}
				close(tags.held)
				owner := NewOwner(OwnerOptions{
					Node: a.Owner, StoreID: "s", Store: w.store, Raft: raft, Keyring: ring, Logs: disk, Publisher: tags,
					Runtimes: map[string]workload.Runtime{"copy": raft}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
				})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- owner.Run(ctx) }()
				ctxutil.Sleep(ctx, fullPause-time.Millisecond)
				synctest.Wait()
				if b := w.store.Build(a.BuildId).Build; b.Phase == builds.Queued {
					t.Error("given back before the leader can know")
				}
				ctxutil.Sleep(ctx, time.Second)
				synctest.Wait()
				r := w.store.Build(a.BuildId)
				first := r.Build.Attempts[0]
				if r.Build.Phase != builds.Queued || first.Phase != builds.Failed || first.Counted || r.CountedAttempts != 0 {
					t.Errorf("the build is %s, its attempt %v", r.Build.Phase, first)
				}
				if !strings.Contains(first.Message, "node "+a.Owner+" cannot write logs") {
					t.Errorf("it says %q", first.Message)
				}
				if next := w.decide().assign; len(next) != 1 || next[0].Owner == a.Owner {
					t.Errorf("the next attempt is %v", next)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Test_Decide_AvoidsWhereItFailed: a further attempt goes to the failed one's
// node only if there is no other.
func Test_Decide_AvoidsWhereItFailed(t *testing.T) {
	for _, others := range []uint32{2, 0} {
		w := newWorld(t, 2, others)
		w.ask("a")
		a := w.decide().assign[0]
		w.apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		w.apply(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameInfrastructure, Uncounted: true})
		next := w.decide().assign
		if len(next) != 1 || (next[0].Owner == a.Owner) != (others == 0) {
			t.Errorf("with room for %d elsewhere: attempt 1 on %s, then %v", others, a.Owner, next)
		}
	}
}

// Test_Decide_SkipsDrainedNodes: neither an attempt nor a copy of its log goes
// to a node that an operator drained.
func Test_Decide_SkipsDrainedNodes(t *testing.T) {
	w := newWorld(t, 10, 10, 10)
	w.apply(&buildsv1.SetFeatureLevel{Level: 2})
	w.apply(&buildsv1.DrainNode{Name: "n1", Drained: true})
	for range 12 {
		w.ask("a")
	}
	d := decide(w.store.View(), w.now, rules{
		alive: func(*buildsv1.Node) bool { return true }, runtime: func(*imagebuilderv1.Source) string { return "copy" },
		adoptable: func(string) bool { return false }, replicas: 2,
	})
	if len(d.assign) != 12 {
		t.Errorf("%d of 12 builds start", len(d.assign))
	}
	for _, a := range d.assign {
		for _, c := range a.Copies {
			if a.Owner == "n1" || c.Node == "n1" {
				t.Errorf("owner %s, copies %v", a.Owner, a.Copies)
			}
		}
	}
}

// Test_Place_LocalityAndLoad: builds of one source go to the same node while it
// is at most one ahead, builds of different sources are spread, and when a node
// goes, only its sources move.
func Test_Place_LocalityAndLoad(t *testing.T) {
	slots := func(names ...string) (out []*slot) {
		for _, n := range names {
			out = append(out, &slot{node: &buildsv1.Node{Name: n, Runtimes: []string{"copy"}}, free: 10})
		}
		return out
	}
	where := map[string]string{}
	on := map[string]int{}
	for i := range 90 {
		src := fmt.Sprint("source ", i)
		n := place(slots("a", "b", "c"), "copy", src, "").node.Name
		where[src] = n
		on[n]++
		if again := place(slots("c", "a", "b"), "copy", src, "").node.Name; again != n {
			t.Fatalf("%s goes to %s and to %s", src, n, again)
		}
	}
	for n, count := range on {
		if count < 15 {
			t.Errorf("%d of 90 sources go to node %s", count, n)
		}
	}
	for src, n := range where {
		if now := place(slots("a", "b"), "copy", src, "").node.Name; n != "c" && now != n {
			t.Errorf("%s moves from %s to %s, although only node c has gone", src, n, now)
		}
	}
	load := slots("a", "b", "c")
	for range 30 {
		sl := place(load, "copy", "source 0", "")
		sl.used++
		sl.free--
	}
	for _, sl := range load {
		if sl.used != 10 {
			t.Errorf("node %s runs %d of 30 attempts", sl.node.Name, sl.used)
		}
	}
}

// ready is a registry that has every image already, and a runtime that must not
// run.
type ready struct {
	*oneNode
	ran bool
}

func (r *ready) Run(context.Context, *workload.Workload, workload.Sink) (workload.Outcome, error) {
	r.ran = true
	return workload.Outcome{Repository: "r", Digest: "sha256:another"}, nil
}
func (*ready) Publish(context.Context, string, string) error { return nil }
func (*ready) Exists(context.Context, string) (bool, error)  { return true, nil }

// Test_Publish_ACommittedDigestIsNotBuiltAgain: an attempt ended with its node
// after it had committed a digest; the next one finds the image and finishes
// without building.
func Test_Publish_ACommittedDigestIsNotBuiltAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		ring := newKeyring(t)
		w.ask("a")
		a := w.decide().assign[0]
		w.apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		w.apply(&buildsv1.ReportPhase{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Pushing, Digest: "sha256:first"})
		w.apply(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameInfrastructure, Uncounted: true})
		second := w.decide().assign
		w.apply(&buildsv1.AssignAttempt{Assignments: second})
		r := &ready{oneNode: &oneNode{w: w}}
		owner := NewOwner(OwnerOptions{
			Node: second[0].Owner, StoreID: "s", Store: w.store, Raft: r, Keyring: ring, Logs: silent{}, Publisher: r,
			Runtimes: map[string]workload.Runtime{"copy": r}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- owner.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if b := w.store.Build(a.BuildId).Build; b.Phase != builds.Succeeded || b.Digest != "sha256:first" || r.ran {
			t.Errorf("the build is %s with %s, built again: %v", b.Phase, b.Digest, r.ran)
		}
	})
}
