package owner

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

type nowhere struct{}

func (nowhere) Append(context.Context, logs.Copy, []logs.Append) ([]logs.Ack, error) {
	return nil, errors.New("away")
}

// behind is a node whose state does not know yet what the leader's does.
type behind struct {
	*schedulertest.OneNode
	news func()
}

func (r *behind) WaitApplied(context.Context, uint64) error {
	if r.news != nil {
		r.news()
		r.news = nil
	}
	return nil
}

// Test_KeepCopy_AFenceIsLookedAt: a node that refuses a log as if it had another
// owner may just have lost its copy. The owner stops only if the cluster says
// that it is none any more: else nobody would bring the build to its end.
func Test_KeepCopy_AFenceIsLookedAt(t *testing.T) {
	for _, deposed := range []bool{false, true} {
		w := schedulertest.NewWorld(t, 1, 1)
		raft := &behind{OneNode: &schedulertest.OneNode{W: w}}
		w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		w.Ask("a")
		a := w.Assignment()
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		r := w.Store.Build(a.BuildId)
		if deposed {
			raft.news = func() { w.Apply(&buildsv1.NodeLost{Name: a.Owner, StoreId: "s", BootId: "b", Reason: "test"}) }
		}
		store, err := logs.Open(logs.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		rep := logs.NewReplicator(store, logs.Copy{Node: a.Owner, StoreID: "s"}, nowhere{}, slog.New(slog.DiscardHandler))
		var cause error
		at := &attempt{
			owner:  NewOwner(OwnerOptions{Node: a.Owner, StoreID: "s", Store: w.Store, Raft: raft, Log: slog.New(slog.DiscardHandler)}),
			record: r, key: lastKey(r.Build), refused: map[logs.Copy]time.Time{}, cancel: func(err error) { cause = err },
		}
		feed := rep.Start(at.key.log(), 1, nil, 0)
		at.keepCopy(t.Context(), feed, []logs.CopyStatus{{Copy: logs.Copy{Node: "other", StoreID: "s"}, Refusal: logs.ErrFenced}})
		if got := errors.Is(cause, errFenced); got != deposed {
			t.Errorf("deposed %v: the attempt was stopped: %v (%v)", deposed, got, cause)
		}
		feed.Close()
		rep.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}
