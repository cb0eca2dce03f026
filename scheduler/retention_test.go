package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// someNodes is a cluster in which all is well.
type someNodes struct{}

func (someNodes) Peer(string, string) (string, time.Duration, bool) { return "b", 0, false }
func (someNodes) Takes(string, string) bool                         { return true }
func (someNodes) Member(string, string) bool                        { return true }
func (someNodes) PeersChanged() <-chan struct{}                     { return nil }

// Test_Retention lets a leader's time pass and looks at which logs are left.
func Test_Retention(t *testing.T) {
	for _, c := range []struct {
		name string
		r    Retention
		want []int // of ten builds, an hour apart and of 100 bytes each, the last one having just ended
	}{
		{"none", Retention{}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{"age", Retention{Age: 5*time.Hour + time.Minute}, []int{4, 5, 6, 7, 8, 9}},
		{"size", Retention{TotalBytes: 350}, []int{7, 8, 9}},
		{"both", Retention{Age: 2*time.Hour + time.Minute, TotalBytes: 900}, []int{7, 8, 9}},
		{"not before the minimum age", Retention{Age: time.Second, TotalBytes: 1}, []int{8, 9}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1)
				time.Sleep(time.Until(w.Now)) // the time of the state never goes back
				w.Apply(&buildsv1.PutSettings{Settings: &buildsv1.Settings{Attempts: 3, HistoryMinAgeNanos: int64(90 * time.Minute)}})
				var ids []string
				for i := range 10 {
					if i > 0 {
						time.Sleep(time.Hour)
						w.Now = time.Now()
					}
					ids = append(ids, w.Ended(100))
				}
				expired := 0
				stop := lead(t, w, c.r, &expired)
				time.Sleep(50 * time.Second)
				synctest.Wait()
				stop()
				if got := w.Kept(ids); !slices.Equal(got, c.want) {
					t.Errorf("logs of builds %v are left, want %v", got, c.want)
				}
				if expired != len(ids)-len(c.want) {
					t.Errorf("%d builds were counted", expired)
				}
			})
		})
	}
}

// Test_Retention_InBatches expires more builds than one command takes, while
// the oldest goes first.
func Test_Retention_InBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1)
		time.Sleep(time.Until(w.Now))
		w.Apply(&buildsv1.PutSettings{Settings: &buildsv1.Settings{Attempts: 3}})
		var ids []string
		for range 2*expiresAtOnce + 10 {
			ids = append(ids, w.Ended(1))
		}
		time.Sleep(time.Minute)
		w.Now = time.Now()
		first := Retention{Age: time.Second}.expired(w.Store.View(), time.Now())
		if !slices.Equal(first, ids[:expiresAtOnce]) {
			t.Errorf("the first command is about %d builds: %.300s", len(first), fmt.Sprint(first))
		}
		before, expired := w.Index, 0
		stop := lead(t, w, Retention{Age: time.Second}, &expired)
		time.Sleep(time.Second)
		synctest.Wait()
		stop()
		if n := w.Index - before; len(w.Kept(ids)) != 0 || n != 3 {
			t.Errorf("%d logs are left after %d commands", len(w.Kept(ids)), n)
		}
	})
}

// lead runs a leader until the answered function is called.
func lead(t *testing.T, w *schedulertest.World, r Retention, expired *int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	l := NewLeader(LeaderOptions{
		Store: w.Store, Raft: &schedulertest.OneNode{W: w}, Log: slog.New(slog.DiscardHandler), Nodes: someNodes{}, LostAfter: time.Hour,
		Retention: r, Expired: func(n int) { *expired += n },
	})
	go func() { done <- l.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
