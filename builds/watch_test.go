package builds_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

func Test_Watch_LatestWins(t *testing.T) {
	m := newMachine(t)
	id := m.create("r:1").Build.Id
	w := m.store.Watch(id)
	defer w.Close()
	m.succeed(id) // nobody reads meanwhile, and nothing blocks
	r, err := w.Next(t.Context())
	if err != nil || r.Build.Phase != builds.Succeeded {
		t.Fatalf("got %v, %v, want the last version", r.GetBuild().GetPhase(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a version was answered twice: %v", err)
	}
}

func Test_Watch_TerminalOutlivesHistory(t *testing.T) {
	m := newMachine(t)
	id := m.create("r:1").Build.Id
	w := m.store.Watch(id)
	defer w.Close()
	m.succeed(id)
	set := builds.DefaultSettings()
	set.HistoryMinAgeNanos, set.HistoryMaxAgeNanos = 0, 1
	m.now = m.now.Add(1000)
	m.must(&buildsv1.PutSettings{Settings: set})
	if m.store.Build(id) != nil {
		t.Fatal("the history still holds the build")
	}
	if r, err := w.Next(t.Context()); err != nil || r.Build.Phase != builds.Succeeded {
		t.Errorf("got %v, %v, want the terminal version", r.GetBuild().GetPhase(), err)
	}
}

func Test_Subscribe_SplicesSnapshotAndEvents(t *testing.T) {
	m := newMachine(t)
	const writers, each = 1, 300
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range each {
			m.create(fmt.Sprintf("r:%d", i))
		}
	})
	seen := map[string]bool{}
	view, sub := m.store.Subscribe()
	view.Descend("", func(r *buildsv1.Record) bool { seen[r.Build.Id] = true; return true })
	for len(seen) < writers*each {
		ev, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ev.Index <= view.Index() {
			t.Fatalf("event %d is part of the snapshot at %d", ev.Index, view.Index())
		}
		for _, r := range ev.Changed {
			seen[r.Build.Id] = true
		}
	}
	wg.Wait()
}

func Test_Subscribe_ResumesAndTellsWhenItCannot(t *testing.T) {
	m := newMachine(t)
	for i := range 10 {
		m.create(fmt.Sprintf("r:%d", i))
	}
	at := m.index - 3
	sub, err := m.store.SubscribeAfter(at)
	if err != nil {
		t.Fatal(err)
	}
	for want := at + 1; want <= m.index; want++ {
		if ev, err := sub.Next(t.Context()); err != nil || ev.Index != want {
			t.Fatalf("got event %d, %v, want %d", ev.Index, err, want)
		}
	}
	if _, err := m.store.SubscribeAfter(m.index + 1); !errors.Is(err, builds.ErrResubscribe) {
		t.Errorf("an index of the future: %v", err)
	}
	for i := range 9000 {
		m.create(fmt.Sprintf("s:%d", i))
	}
	if _, err := sub.Next(t.Context()); !errors.Is(err, builds.ErrResubscribe) {
		t.Errorf("a subscriber far behind: %v", err)
	}
	if _, err := m.store.SubscribeAfter(at); !errors.Is(err, builds.ErrResubscribe) {
		t.Errorf("an index that is no longer kept: %v", err)
	}
}

func Test_Restore_EndsSubscriptions(t *testing.T) {
	m := newMachine(t)
	id := m.create("r:1").Build.Id
	saved := dump(t, m.store)
	other := m.create("r:2").Build.Id
	_, sub := m.store.Subscribe()
	kept, gone := m.store.Watch(id), m.store.Watch(other)
	defer kept.Close()
	defer gone.Close()
	if err := m.store.Restore(bytes.NewReader(saved)); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Next(t.Context()); !errors.Is(err, builds.ErrResubscribe) {
		t.Errorf("subscription: %v", err)
	}
	if _, err := kept.Next(t.Context()); err != nil {
		t.Errorf("watch of a build that the snapshot has: %v", err)
	}
	if _, err := gone.Next(t.Context()); !errors.Is(err, builds.ErrResubscribe) {
		t.Errorf("watch of a build that the snapshot lacks: %v", err)
	}
}

// Test_Restore_OfAnOlderStateEndsWatchesThatResume: indexes between that of the
// snapshot and the first one after the restore are of a history that is gone.
func Test_Restore_OfAnOlderStateEndsWatchesThatResume(t *testing.T) {
	m := newMachine(t)
	m.create("r:1")
	saved, from := dump(t, m.store), m.index
	for i := range 5 {
		m.create(fmt.Sprintf("s:%d", i))
	}
	old := m.index
	if err := m.store.Restore(bytes.NewReader(saved)); err != nil {
		t.Fatal(err)
	}
	m.index++ // Raft gives the restore an index of its own
	m.create("t:1")
	m.create("t:2")
	for index := from + 1; index <= old+1; index++ {
		if _, err := m.store.SubscribeAfter(index); !errors.Is(err, builds.ErrResubscribe) {
			t.Errorf("resumed after %d of %d before the restore: %v", index, old, err)
		}
	}
	sub, err := m.store.SubscribeAfter(m.index - 1)
	if err != nil {
		t.Fatal(err)
	}
	if ev, err := sub.Next(t.Context()); err != nil || ev.Index != m.index {
		t.Errorf("after the restore: event %d, %v, want %d", ev.Index, err, m.index)
	}
}

// Test_Restore_OfTheSameHistory: a watch resumes on a node that went on from a
// snapshot of its own.
func Test_Restore_OfTheSameHistory(t *testing.T) {
	m := newMachine(t)
	m.create("r:1")
	saved, at := dump(t, m.store), m.index
	if err := m.store.Restore(bytes.NewReader(saved)); err != nil {
		t.Fatal(err)
	}
	m.create("r:2")
	if _, err := m.store.SubscribeAfter(at); err != nil {
		t.Error(err)
	}
}

// Test_Newest_IsTheSameOnAllNodes: once the newest build of a ref is removed, the
// one before it is, also on a node that has not read a snapshot.
func Test_Newest_IsTheSameOnAllNodes(t *testing.T) {
	m := newMachine(t)
	m.must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	set := builds.DefaultSettings()
	set.HistoryMinAgeNanos, set.HistoryPerRequester = 0, 1
	m.must(&buildsv1.PutSettings{Settings: set})
	first := m.create("r:1").Build.Id
	m.succeed(first)
	again := m.create("r:1", by("bob"), func(c *buildsv1.CreateBuild) { c.Force = true }).Build.Id
	m.succeed(again)
	m.create("r:10")
	if got := m.store.View().Newest("r:1").GetBuild().GetId(); got != again {
		t.Errorf("the newest is %q, not %q", got, again)
	}
	m.succeed(m.create("r:2", by("bob")).Build.Id)
	if m.store.Build(again) != nil {
		t.Fatal("the history still holds the build")
	}
	restored := builds.NewStore()
	if err := restored.Restore(bytes.NewReader(dump(t, m.store))); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*builds.Store{"here": m.store, "from a snapshot": restored} {
		if got := s.View().Newest("r:1").GetBuild().GetId(); got != first {
			t.Errorf("%s the newest is %q, not %q", name, got, first)
		}
		if r := s.View().Newest("r"); r != nil {
			t.Errorf("%s: %q is of another ref", name, r.Build.Ref)
		}
	}
}

func Test_Snapshot_DamageIsRefused(t *testing.T) {
	m := newMachine(t)
	id := m.create("r:1").Build.Id
	m.succeed(id)
	good := dump(t, m.store)
	for n := range good {
		if err := builds.NewStore().Restore(bytes.NewReader(good[:n])); err == nil {
			t.Fatalf("a snapshot cut after %d of %d bytes was restored", n, len(good))
		}
	}
	if err := builds.NewStore().Restore(bytes.NewReader(append(good, 0))); err == nil {
		t.Error("bytes after the end were ignored")
	}
	if err := m.store.Restore(bytes.NewReader(good[:10])); err == nil || m.store.Build(id) == nil {
		t.Error("a failed restore changed the state")
	}
}

func Fuzz_Snapshot(f *testing.F) {
	m := newMachine(f)
	m.succeed(m.create("r:1").Build.Id)
	f.Add(dump(f, m.store))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = builds.NewStore().Restore(bytes.NewReader(data)) // must not panic
	})
}
