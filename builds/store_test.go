package builds_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
)

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

// Test_Restore_OfAnOlderStateEndsWatchesThatResume checks that a watch cannot resume at an index
// between that of the snapshot and the first one after the restore, because these indexes belong to
// another history.
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

// Test_Restore_OfTheSameHistory checks that a watch can resume on a node that has restored a
// snapshot of its own history.
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
