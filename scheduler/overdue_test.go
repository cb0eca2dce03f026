package scheduler

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// recordedRaft records the types of the commands of a leader.
type recordedRaft struct {
	*schedulertest.Raft
	commands []buildsv1.CommandType
}

func (r *recordedRaft) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	r.commands = append(r.commands, buildsv1.CommandType(cmd.Type)) // the leader proposes one at a time here
	return r.Raft.Propose(ctx, cmd)
}

// Test_Leader_AssignsBeforeItStops runs a leader when many queued builds are past their deadline and
// one is not. That one starts first, and the others are stopped in batches. Below the feature level
// of the batch they are stopped one by one.
func Test_Leader_AssignsBeforeItStops(t *testing.T) {
	const overdue = 2*maxOverdue + 1
	for title, c := range map[string]struct {
		level uint32
		stops []buildsv1.CommandType
	}{
		"in batches": {builds.FeatureLevel, []buildsv1.CommandType{
			buildsv1.CommandType_COMMAND_TYPE_STOP_OVERDUE, buildsv1.CommandType_COMMAND_TYPE_STOP_OVERDUE, buildsv1.CommandType_COMMAND_TYPE_STOP_OVERDUE,
		}},
		"one by one": {4, repeat(buildsv1.CommandType_COMMAND_TYPE_STOP_BUILD, overdue)},
	} {
		t.Run(title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1)
				time.Sleep(time.Until(w.Now))
				w.Apply(&buildsv1.SetFeatureLevel{Level: c.level})
				for range overdue {
					w.CreateFor("flood", time.Minute)
				}
				w.Create("modest")
				time.Sleep(2 * time.Minute)
				w.Now = time.Now()
				r := &recordedRaft{Raft: &schedulertest.Raft{W: w}}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				l := NewLeader(LeaderOptions{
					Store: w.Store, Raft: r, Log: slog.New(slog.DiscardHandler), Nodes: healthyNodes{}, LostAfter: time.Hour, Runtime: byKind,
				})
				go func() { done <- l.Run(ctx) }()
				synctest.Wait()
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				want := append([]buildsv1.CommandType{buildsv1.CommandType_COMMAND_TYPE_ASSIGN_ATTEMPT}, c.stops...)
				if d := cmp.Diff(want, r.commands); d != "" {
					t.Errorf("commands of the leader (-want +got):\n%s", d)
				}
				if n := w.Store.View().Counts(); n.Queued != 0 || n.Live != 1 || n.History != overdue {
					t.Errorf("afterwards the state has %+v", n)
				}
			})
		})
	}
}

func repeat[T any](v T, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}
