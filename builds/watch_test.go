package builds_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

func Test_Watch_LatestWins(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	w := m.Store.Watch(id)
	defer w.Close()
	m.Succeed(id) // nobody reads meanwhile, and nothing blocks
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
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	w := m.Store.Watch(id)
	defer w.Close()
	m.Succeed(id)
	set := builds.DefaultSettings()
	set.HistoryMinAgeNanos, set.HistoryMaxAgeNanos = 0, 1
	m.Now = m.Now.Add(1000)
	m.Must(&buildsv1.PutSettings{Settings: set})
	if m.Store.Build(id) != nil {
		t.Fatal("the history still holds the build")
	}
	if r, err := w.Next(t.Context()); err != nil || r.Build.Phase != builds.Succeeded {
		t.Errorf("got %v, %v, want the terminal version", r.GetBuild().GetPhase(), err)
	}
}

func Test_Subscribe_SplicesSnapshotAndEvents(t *testing.T) {
	m := buildstest.NewMachine(t)
	const writers, each = 1, 300
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range each {
			m.Create(fmt.Sprintf("r:%d", i))
		}
	})
	seen := map[string]bool{}
	view, sub := m.Store.Subscribe()
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
	m := buildstest.NewMachine(t)
	for i := range 10 {
		m.Create(fmt.Sprintf("r:%d", i))
	}
	at := m.Index - 3
	sub, err := m.Store.SubscribeAfter(at)
	if err != nil {
		t.Fatal(err)
	}
	for want := at + 1; want <= m.Index; want++ {
		if ev, err := sub.Next(t.Context()); err != nil || ev.Index != want {
			t.Fatalf("got event %d, %v, want %d", ev.Index, err, want)
		}
	}
	if _, err := m.Store.SubscribeAfter(m.Index + 1); !errors.Is(err, builds.ErrResubscribe) {
		t.Errorf("an index of the future: %v", err)
	}
	for i := range 9000 {
		m.Create(fmt.Sprintf("s:%d", i))
	}
	if _, err := sub.Next(t.Context()); !errors.Is(err, builds.ErrResubscribe) {
		t.Errorf("a subscriber far behind: %v", err)
	}
	if _, err := m.Store.SubscribeAfter(at); !errors.Is(err, builds.ErrResubscribe) {
		t.Errorf("an index that is no longer kept: %v", err)
	}
}

func Test_Restore_EndsSubscriptions(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	saved := buildstest.Dump(t, m.Store)
	other := m.Create("r:2").Build.Id
	_, sub := m.Store.Subscribe()
	kept, gone := m.Store.Watch(id), m.Store.Watch(other)
	defer kept.Close()
	defer gone.Close()
	if err := m.Store.Restore(bytes.NewReader(saved)); err != nil {
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
	m := buildstest.NewMachine(t)
	m.Create("r:1")
	saved, from := buildstest.Dump(t, m.Store), m.Index
	for i := range 5 {
		m.Create(fmt.Sprintf("s:%d", i))
	}
	old := m.Index
	if err := m.Store.Restore(bytes.NewReader(saved)); err != nil {
		t.Fatal(err)
	}
	m.Index++ // Raft gives the restore an index of its own
	m.Create("t:1")
	m.Create("t:2")
	for index := from + 1; index <= old+1; index++ {
		if _, err := m.Store.SubscribeAfter(index); !errors.Is(err, builds.ErrResubscribe) {
			t.Errorf("resumed after %d of %d before the restore: %v", index, old, err)
		}
	}
	sub, err := m.Store.SubscribeAfter(m.Index - 1)
	if err != nil {
		t.Fatal(err)
	}
	if ev, err := sub.Next(t.Context()); err != nil || ev.Index != m.Index {
		t.Errorf("after the restore: event %d, %v, want %d", ev.Index, err, m.Index)
	}
}

// Test_Restore_OfTheSameHistory: a watch resumes on a node that went on from a
// snapshot of its own.
func Test_Restore_OfTheSameHistory(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Create("r:1")
	saved, at := buildstest.Dump(t, m.Store), m.Index
	if err := m.Store.Restore(bytes.NewReader(saved)); err != nil {
		t.Fatal(err)
	}
	m.Create("r:2")
	if _, err := m.Store.SubscribeAfter(at); err != nil {
		t.Error(err)
	}
}

// Test_Newest_IsTheSameOnAllNodes: once the newest build of a ref is removed, the
// one before it is, also on a node that has not read a snapshot.
func Test_Newest_IsTheSameOnAllNodes(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	set := builds.DefaultSettings()
	set.HistoryMinAgeNanos, set.HistoryPerRequester = 0, 1
	m.Must(&buildsv1.PutSettings{Settings: set})
	first := m.Create("r:1").Build.Id
	m.Succeed(first)
	again := m.Create("r:1", buildstest.By("bob"), func(c *buildsv1.CreateBuild) { c.Force = true }).Build.Id
	m.Succeed(again)
	m.Create("r:10")
	if got := m.Store.View().Newest("r:1").GetBuild().GetId(); got != again {
		t.Errorf("the newest is %q, not %q", got, again)
	}
	m.Succeed(m.Create("r:2", buildstest.By("bob")).Build.Id)
	if m.Store.Build(again) != nil {
		t.Fatal("the history still holds the build")
	}
	restored := builds.NewStore()
	if err := restored.Restore(bytes.NewReader(buildstest.Dump(t, m.Store))); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*builds.Store{"here": m.Store, "from a snapshot": restored} {
		if got := s.View().Newest("r:1").GetBuild().GetId(); got != first {
			t.Errorf("%s the newest is %q, not %q", name, got, first)
		}
		if r := s.View().Newest("r"); r != nil {
			t.Errorf("%s: %q is of another ref", name, r.Build.Ref)
		}
	}
}

func Test_Snapshot_DamageIsRefused(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	m.Succeed(id)
	good := buildstest.Dump(t, m.Store)
	for n := range good {
		if err := builds.NewStore().Restore(bytes.NewReader(good[:n])); err == nil {
			t.Fatalf("a snapshot cut after %d of %d bytes was restored", n, len(good))
		}
	}
	if err := builds.NewStore().Restore(bytes.NewReader(append(good, 0))); err == nil {
		t.Error("bytes after the end were ignored")
	}
	if err := m.Store.Restore(bytes.NewReader(good[:10])); err == nil || m.Store.Build(id) == nil {
		t.Error("a failed restore changed the state")
	}
}

func Fuzz_Snapshot(f *testing.F) {
	m := buildstest.NewMachine(f)
	m.Succeed(m.Create("r:1").Build.Id)
	f.Add(buildstest.Dump(f, m.Store))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = builds.NewStore().Restore(bytes.NewReader(data)) // must not panic
	})
}
