package owner

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// held is a way to other nodes that answers once it is released.
type held struct{ release chan struct{} }

func (h held) Append(ctx context.Context, _ logs.Copy, batch []logs.Append) ([]logs.Ack, error) {
	select {
	case <-h.release:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	acks := make([]logs.Ack, len(batch))
	for i, a := range batch {
		acks[i].Length = a.Offset
	}
	return acks, nil
}

// Test_KeepCopy_OneThatCountsIsCommittedLater: a further copy counts before it is
// looked at again, and may be behind by then. It becomes a member once it has
// caught up, and is left out if it is lost before.
func Test_KeepCopy_OneThatCountsIsCommittedLater(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := schedulertest.NewWorld(t, 1, 1)
		raft := &behind{OneNode: &schedulertest.OneNode{W: w}}
		w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		w.Ask("a")
		a := w.Assignment()
		a.Copies, a.Replicas = []*imagebuilderv1.LogCopy{{Node: a.Owner, StoreId: "s"}}, 2
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		r := w.Store.Build(a.BuildId)
		other := logs.Copy{Node: map[string]string{"n0": "n1", "n1": "n0"}[a.Owner], StoreID: "s"}
		store, err := logs.Open(logs.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		way := held{make(chan struct{})}
		rep := logs.NewReplicator(store, logs.Copy{Node: a.Owner, StoreID: "s"}, way, slog.New(slog.DiscardHandler))
		at := &attempt{
			owner:  NewOwner(OwnerOptions{Node: a.Owner, StoreID: "s", Store: w.Store, Raft: raft, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour}),
			record: r, key: lastKey(r.Build), refused: map[logs.Copy]time.Time{}, cancel: func(error) {},
		}
		if _, err := store.Create(at.key.log(), 1, nil, true); err != nil {
			t.Fatal(err)
		}
		feed := rep.Start(at.key.log(), 1, nil, 0)
		feed.Join(other)
		copies := func() int { return len(builds.CopiesOf(builds.LastAttempt(w.Store.Build(a.BuildId).Build))) }
		if !at.keepCopy(t.Context(), feed, []logs.CopyStatus{{Copy: other, Joins: true, Current: true}}) || copies() != 1 {
			t.Errorf("a copy that is behind: %d are committed", copies())
		}
		if lost {
			at.keepCopy(t.Context(), feed, []logs.CopyStatus{{Copy: other, Refusal: logs.ErrNoSpace}})
			if status, _ := feed.Status(); len(status) != 0 {
				t.Errorf("the watermark waits for %v still", status)
			}
		}
		close(way.release)
		for !lost {
			status, changed := feed.Status()
			if len(status) == 1 && status[0].Current {
				at.keepCopy(t.Context(), feed, status)
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
		feed.Close()
		rep.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}
