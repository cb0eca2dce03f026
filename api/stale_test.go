package api_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds/buildstest"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// staleRaft is a node that heard its leader some time ago.
type staleRaft struct {
	*localRaft
	known bool
	age   time.Duration
	asked atomic.Int64
}

func (s *staleRaft) Freshness() (uint64, bool, time.Duration) { return 7, s.known, s.age }
func (s *staleRaft) ReadIndex(ctx context.Context) (uint64, error) {
	s.asked.Add(1)
	if !s.known { // nobody can be asked
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return 7, nil
}

// Test_Lists_BoundedStale: a list asks the leader only if what the node knows
// is older than two seconds, answers without a leader nevertheless, and says
// how old it is; a linearizable one waits for the leader as long as it may.
func Test_Lists_BoundedStale(t *testing.T) {
	for name, x := range map[string]struct {
		known, linear bool
		age           time.Duration
		asks          int64
		fails         bool
	}{
		"fresh":                   {known: true, age: time.Second},
		"fresh, linearizable":     {known: true, age: time.Second, linear: true, asks: 1},
		"old":                     {known: true, age: 3 * time.Second, asks: 1},
		"without a leader":        {age: time.Second, asks: 1},
		"no leader, linearizable": {age: time.Second, linear: true, asks: 1, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			raft := &staleRaft{localRaft: &localRaft{m: buildstest.NewMachine(t)}, known: x.known, age: x.age}
			n := api.Native{Service: api.NewService(api.ServiceOptions{Store: raft.m.Store, Raft: raft, Logs: noLogs{}})}
			limit := time.Minute
			if x.fails {
				limit = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			res, err := n.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{Linearizable: x.linear})
			if (err != nil) != x.fails {
				t.Fatal(err)
			}
			if got := raft.asked.Load(); got != x.asks {
				t.Errorf("the leader was asked %d times, want %d", got, x.asks)
			}
			if r := res.GetRead(); err == nil && (r.GetStaleness().AsDuration() != x.age || r.GetLeaderKnown() != x.known || r.GetIndex() != 7) {
				t.Errorf("the answer says %v", r)
			}
		})
	}
}
