package scheduler

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// Test_Leader_SettingsOfTheLevel: the leader commits a new setting only once all nodes know it, and
// then in the same term.
func Test_Leader_SettingsOfTheLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1)
		set := builds.DefaultSettings()
		set.Attempts = 7
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		raft := &clusterTime{Raft: &schedulertest.Raft{W: w}, now: time.Now}
		l := NewLeader(LeaderOptions{
			Store: w.Store, Raft: raft, Log: slog.New(slog.DiscardHandler), Settings: set, Nodes: healthyNodes{}, LostAfter: time.Hour,
		})
		go func() { done <- l.Run(ctx) }()
		for _, c := range []struct{ level, limit uint32 }{{4, 0}, {builds.FeatureLevel, set.QueuePerRequester}} {
			if _, _, err := builds.Propose(ctx, raft, &buildsv1.SetFeatureLevel{Level: c.level}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			want := proto.CloneOf(set)
			want.QueuePerRequester = c.limit
			if got := w.Store.View().Settings(); !proto.Equal(got, want) {
				t.Errorf("at level %d the settings are %v, want %v", c.level, got, want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
