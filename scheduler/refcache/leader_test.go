package refcache

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// Test_Leader_FollowsTheTimeOfTheCluster assigns a reference that is due by the time of the cluster,
// which is years ahead of the clock of the leader's machine here.
func Test_Leader_FollowsTheTimeOfTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1)
		begin, cluster := time.Now(), w.Now
		l := &Leader{
			Store: w.Store, Raft: &schedulertest.Raft{W: w}, Log: slog.New(slog.DiscardHandler),
			Seed: []string{"r.example.com/a:1"}, Interval: time.Hour, Now: func() time.Time { return cluster.Add(time.Since(begin)) },
		}
		w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { _ = l.Run(ctx) })
		time.Sleep(5 * time.Second)
		synctest.Wait()
		w.Store.Read(func(st *builds.State) {
			for _, r := range st.CachedRefs() {
				if r.RefreshingBy == "" {
					t.Errorf("%s is due and not assigned", r.Ref)
				}
			}
			if len(st.CachedRefs()) != 1 {
				t.Errorf("%d references are cached", len(st.CachedRefs()))
			}
		})
	})
}
