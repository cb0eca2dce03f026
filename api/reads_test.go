package api_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// busyRaft commits a change at each call of Freshness.
type busyRaft struct {
	*localRaft
	change func()
	lags   uint64 // how far the reported index is behind that of the state
}

func (b *busyRaft) Freshness() (uint64, bool, time.Duration) {
	index, known, stale := b.localRaft.Freshness()
	if b.change != nil {
		b.change()
	}
	return index - b.lags, known, stale
}

// Test_Reads_TellTheirIndex checks that no build in a response is newer than the index of the
// response. So a client that reads at that index from another node sees nothing older.
func Test_Reads_TellTheirIndex(t *testing.T) {
	busy := &busyRaft{}
	a := newAPIWith(t, func(o *api.ServiceOptions) {
		busy.localRaft = o.Raft.(*localRaft)
		o.Raft = busy
	})
	a.Create("r:0")
	busy.change, busy.lags = func() { a.Create(fmt.Sprint("r:", a.Index)) }, 1
	list, err := a.native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list.Builds {
		if b.Version > list.Read.Index {
			t.Errorf("a list of index %d shows a build of index %d", list.Read.Index, b.Version)
		}
	}
	busy.change = nil
	res, err := a.native.BuildStatus(t.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: list.Builds[0].Id}})
	if err != nil || res.Build.Version > res.Read.Index {
		t.Errorf("a status of index %d shows index %d: %v", res.GetRead().GetIndex(), res.GetBuild().GetVersion(), err)
	}
}

// staleRaft is the log of a node whose last contact with its leader was some time ago.
type staleRaft struct {
	*localRaft
	known   bool
	age     time.Duration
	queries atomic.Int64
}

func (s *staleRaft) Freshness() (uint64, bool, time.Duration) { return 7, s.known, s.age }

func (s *staleRaft) ReadIndex(ctx context.Context) (uint64, error) {
	s.queries.Add(1)
	if !s.known { // no leader responds
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return 7, nil
}

// Test_Lists_BoundedStale checks that a list queries the leader only if the local state is older
// than two seconds, that it returns a result without a leader too, and that the result has its age.
// A linearizable list waits for the leader until its deadline.
func Test_Lists_BoundedStale(t *testing.T) {
	for name, x := range map[string]struct {
		known, linear bool
		age           time.Duration
		queries       int64
		fails         bool
	}{
		"fresh":                   {known: true, age: time.Second},
		"fresh, linearizable":     {known: true, age: time.Second, linear: true, queries: 1},
		"old":                     {known: true, age: 3 * time.Second, queries: 1},
		"without a leader":        {age: time.Second, queries: 1},
		"no leader, linearizable": {age: time.Second, linear: true, queries: 1, fails: true},
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
			if got := raft.queries.Load(); got != x.queries {
				t.Errorf("the leader was queried %d times, want %d", got, x.queries)
			}
			if r := res.GetRead(); err == nil && (r.GetStaleness().AsDuration() != x.age || r.GetLeaderKnown() != x.known || r.GetIndex() != 7) {
				t.Errorf("the response has %v", r)
			}
		})
	}
}
