package builds_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

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
