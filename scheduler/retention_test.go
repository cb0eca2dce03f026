package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// healthyNodes is a cluster in which all nodes respond.
type healthyNodes struct{}

func (healthyNodes) Peer(string, string) (string, time.Duration, bool) { return "b", 0, false }
func (healthyNodes) Stalled(string, string) (string, time.Duration)    { return "", 0 }
func (healthyNodes) Takes(string, string) bool                         { return true }
func (healthyNodes) Member(string, string) bool                        { return true }
func (healthyNodes) PeersChanged() <-chan struct{}                     { return nil }

// Test_Retention runs a leader for a while, and checks which logs are left.
func Test_Retention(t *testing.T) {
	for _, c := range []struct {
		name string
		r    Retention
		want []int // of ten builds with 100 bytes each, an hour apart; the last one has just ended
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
				time.Sleep(time.Until(w.Now)) // the time of the state never decreases
				w.Apply(&buildsv1.PutSettings{Settings: &buildsv1.Settings{Attempts: 3, HistoryMinAgeNanos: int64(90 * time.Minute)}})
				var ids []string
				for i := range 10 {
					if i > 0 {
						time.Sleep(time.Hour)
						w.Now = time.Now()
					}
					ids = append(ids, w.CreateEnded(100))
				}
				expired := 0
				stop := lead(t, w, c.r, &expired)
				time.Sleep(50 * time.Second)
				synctest.Wait()
				stop()
				if got := w.WithLog(ids); !slices.Equal(got, c.want) {
					t.Errorf("logs of builds %v are left, want %v", got, c.want)
				}
				if expired != len(ids)-len(c.want) {
					t.Errorf("%d builds were counted", expired)
				}
			})
		})
	}
}

// Test_Retention_InBatches: more logs are removed than one command can name, the oldest ones first.
func Test_Retention_InBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1)
		time.Sleep(time.Until(w.Now))
		w.Apply(&buildsv1.PutSettings{Settings: &buildsv1.Settings{Attempts: 3}})
		var ids []string
		for range 2*maxExpired + 10 {
			ids = append(ids, w.CreateEnded(1))
		}
		time.Sleep(time.Minute)
		w.Now = time.Now()
		first := Retention{Age: time.Second}.expired(w.Store.View(), time.Now())
		if !slices.Equal(first, ids[:maxExpired]) {
			t.Errorf("the first command is about %d builds: %.300s", len(first), fmt.Sprint(first))
		}
		before, expired := w.Index, 0
		stop := lead(t, w, Retention{Age: time.Second}, &expired)
		time.Sleep(time.Second)
		synctest.Wait()
		stop()
		if n := w.Index - before; len(w.WithLog(ids)) != 0 || n != 3 {
			t.Errorf("%d logs are left after %d commands", len(w.WithLog(ids)), n)
		}
	})
}

// lead runs a leader until stop is called.
func lead(t *testing.T, w *schedulertest.World, r Retention, expired *int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	l := NewLeader(LeaderOptions{
		Store: w.Store, Raft: &schedulertest.Raft{W: w}, Log: slog.New(slog.DiscardHandler), Nodes: healthyNodes{}, LostAfter: time.Hour,
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
