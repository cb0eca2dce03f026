package owner

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// newCopyKeeper returns a copyKeeper of the last attempt of a build, with a log on disk. cancel is
// called with the cause when the attempt is cancelled.
func newCopyKeeper(t *testing.T, w *schedulertest.World, build string, raft builds.Raft, to logs.Transport, cancel func(error)) *copyKeeper {
	t.Helper()
	r := w.Store.Build(build)
	node := builds.LastAttempt(r.Build).Owner
	store, err := logs.Open(logs.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	rep := logs.NewReplicator(store, logs.Copy{Node: node, StoreID: "s"}, to, slog.New(slog.DiscardHandler))
	at := &attempt{
		owner:  New(Options{Node: node, StoreID: "s", Store: w.Store, Raft: raft, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour}),
		record: r, key: lastKey(r.Build), cancel: cancel,
	}
	if _, err := store.Create(at.key.log(), 1, nil, true); err != nil {
		t.Fatal(err)
	}
	feed := rep.Start(at.key.log(), 1, nil, 0)
	t.Cleanup(func() {
		feed.Close()
		rep.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return &copyKeeper{at: at, feed: feed, refused: map[logs.Copy]time.Time{}}
}

// lateNode is a Raft whose state learns of a change only when it waits for an index.
type lateNode struct {
	*schedulertest.Raft
	change func()
}

func (r *lateNode) WaitApplied(context.Context, uint64) error {
	if r.change != nil {
		r.change()
		r.change = nil
	}
	return nil
}

// unreachableNodes is a transport that reaches no node.
type unreachableNodes struct{}

func (unreachableNodes) Append(context.Context, logs.Copy, []logs.Append) ([]logs.Ack, error) {
	return nil, errors.New("unreachable")
}

// Test_KeepCopy_AFenceIsLookedAt: a node that refuses a log with ErrFenced may only have removed
// its copy. The owner stops the attempt only if the cluster confirms that it has another owner.
// Otherwise no node would bring the build to its end.
func Test_KeepCopy_AFenceIsLookedAt(t *testing.T) {
	for _, deposed := range []bool{false, true} {
		w := schedulertest.NewWorld(t, 1, 1)
		w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		a := assign(w)
		raft := &lateNode{Raft: &schedulertest.Raft{W: w}}
		if deposed {
			raft.change = func() { w.Apply(&buildsv1.NodeLost{Name: a.Owner, StoreId: "s", BootId: "b", Reason: "test"}) }
		}
		var cause error
		k := newCopyKeeper(t, w, a.BuildId, raft, unreachableNodes{}, func(err error) { cause = err })
		k.check(t.Context(), []logs.CopyStatus{{Copy: logs.Copy{Node: "other", StoreID: "s"}, Refusal: logs.ErrFenced}})
		if got := errors.Is(cause, errFenced); got != deposed {
			t.Errorf("deposed %v: the attempt was stopped: %v (%v)", deposed, got, cause)
		}
	}
}

// blockedTransport acknowledges appends once release is closed.
type blockedTransport struct{ release chan struct{} }

func (b blockedTransport) Append(ctx context.Context, _ logs.Copy, batch []logs.Append) ([]logs.Ack, error) {
	select {
	case <-b.release:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	acks := make([]logs.Ack, len(batch))
	for i, a := range batch {
		acks[i].Length = a.Offset
	}
	return acks, nil
}

// Test_KeepCopy_OneThatCountsIsCommittedLater: the watermark waits for a new copy before the copy
// is checked again. By then the copy may be behind. It is committed once it has caught up, and is
// left out if it is lost before.
func Test_KeepCopy_OneThatCountsIsCommittedLater(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := schedulertest.NewWorld(t, 1, 1)
		w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		w.Create("a")
		a := w.Assignment()
		a.Copies, a.Replicas = []*imagebuilderv1.LogCopy{{Node: a.Owner, StoreId: "s"}}, 2
		w.Assign(a)
		second := logs.Copy{Node: other(a.Owner), StoreID: "s"}
		to := blockedTransport{make(chan struct{})}
		k := newCopyKeeper(t, w, a.BuildId, &schedulertest.Raft{W: w}, to, func(error) {})
		k.feed.Join(second)
		copies := func() int { return len(builds.CopiesOf(builds.LastAttempt(w.Store.Build(a.BuildId).Build))) }
		if !k.check(t.Context(), []logs.CopyStatus{{Copy: second, Joins: true, Current: true}}) || copies() != 1 {
			t.Errorf("a copy that is behind: %d are committed", copies())
		}
		if lost {
			k.check(t.Context(), []logs.CopyStatus{{Copy: second, Refusal: logs.ErrNoSpace}})
			if status, _ := k.feed.Status(); len(status) != 0 {
				t.Errorf("the watermark still waits for %v", status)
			}
		}
		close(to.release)
		for !lost {
			status, changed := k.feed.Status()
			if len(status) == 1 && status[0].Current {
				k.check(t.Context(), status)
				break
			}
			select {
			case <-changed:
			case <-time.After(time.Minute):
				t.Fatalf("the copy does not catch up: %+v", status)
			}
		}
		if want := map[bool]int{false: 2, true: 1}[lost]; copies() != want {
			t.Errorf("lost %v: %d copies are committed, want %d", lost, copies(), want)
		}
	}
}
