package builds_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_Force_AndAnotherSuccessor checks a forced request that comes while a build that is not
// forced waits for the end of a stopped build. The request joins it only if the source is the same.
func Test_Force_AndAnotherSuccessor(t *testing.T) {
	copies := func(c *buildsv1.CreateBuild) { c.Source = imageSource("base@sha256:1") }
	for name, c := range map[string]struct {
		level   uint32
		waiting []func(*buildsv1.CreateBuild)
		want    error
	}{
		"the same source":                                {builds.FeatureLevel, nil, nil},
		"a forced build":                                 {builds.FeatureLevel, []func(*buildsv1.CreateBuild){copies, forced}, nil},
		"a copy of an image that exists":                 {builds.FeatureLevel, []func(*buildsv1.CreateBuild){copies}, builds.ErrOtherSuccessor},
		"a copy of an image that exists, older versions": {4, []func(*buildsv1.CreateBuild){copies}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := buildstest.NewMachine(t)
			m.Must(&buildsv1.SetFeatureLevel{Level: c.level})
			first := m.Create("r:1").Build.Id
			epoch := m.Assign(first)
			m.Stop(first, buildsv1.StopReason_STOP_REASON_REQUESTER, "alice")
			next := m.Create("r:1", c.waiting...).Build.Id
			request := []func(*buildsv1.CreateBuild){forced, buildstest.By("bob"), buildstest.WithRequest("q", "h")}
			res := m.Create("r:1", request...)
			if !errors.Is(res.Err, c.want) || c.want == nil && (res.Build.GetId() != next || !res.Attached) {
				t.Fatalf("got build %s, %v, want to join %s or the error %v", res.Build.GetId(), res.Err, next, c.want)
			}
			if c.want == nil {
				return
			}
			m.Finish(first, epoch, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
			if res = m.Create("r:1", request...); res.Err != nil || res.Attached || res.Build.Id == next {
				t.Errorf("the repeated request got %v, want a build of its own", res)
			}
		})
	}
}

// Test_Successor_DeadlineBeginsWithItsTurn checks that a successor has its whole timeout once the
// former build has ended, however long it waited.
func Test_Successor_DeadlineBeginsWithItsTurn(t *testing.T) {
	for _, level := range []uint32{4, builds.FeatureLevel} {
		m := buildstest.NewMachine(t)
		m.Must(&buildsv1.SetFeatureLevel{Level: level})
		first := m.Create("r:1").Build.Id
		epoch := m.Assign(first)
		m.Now = m.Now.Add(time.Minute)
		m.Stop(first, buildsv1.StopReason_STOP_REASON_REQUESTER, "alice")
		next := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.TimeoutNanos = int64(10 * time.Minute) }).Build
		m.Now = m.Now.Add(20 * time.Minute)
		res := m.Stop(next.Id, buildsv1.StopReason_STOP_REASON_DEADLINE, "")
		if level < builds.FeatureLevel {
			if res.Err != nil || res.Build.Phase != builds.Failed {
				t.Errorf("level %d: %v, want the end that older versions give the build", level, res)
			}
			continue
		}
		if !errors.Is(res.Err, builds.ErrNotDue) {
			t.Fatalf("while it waits: %v, want %v", res, builds.ErrNotDue)
		}
		m.Finish(first, epoch, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
		if got, want := m.Build(next.Id).Deadline.AsTime(), m.Now.Add(10*time.Minute); !got.Equal(want) {
			t.Errorf("the deadline is %s, want %s", got, want)
		}
		m.Now = m.Now.Add(10*time.Minute - 1)
		if res := m.Stop(next.Id, buildsv1.StopReason_STOP_REASON_DEADLINE, ""); !errors.Is(res.Err, builds.ErrNotDue) {
			t.Errorf("before the deadline: %v, want %v", res, builds.ErrNotDue)
		}
		m.Now = m.Now.Add(1)
		if res := m.Stop(next.Id, buildsv1.StopReason_STOP_REASON_DEADLINE, ""); res.Err != nil || res.Build.Phase != builds.Failed {
			t.Errorf("at the deadline: %v, want the end of the build", res)
		}
	}
}

// Test_Successor_DeadlinesInOrder checks which queued builds the leader finds by their deadline,
// before and after the level at which successors are left out, and in a restored state.
func Test_Successor_DeadlinesInOrder(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 4})
	first := m.Create("r:1").Build.Id
	epoch := m.Assign(first)
	m.Stop(first, buildsv1.StopReason_STOP_REASON_REQUESTER, "alice")
	next, other := m.Create("r:1").Build.Id, m.Create("r:2").Build.Id
	want := func(when string, ids ...string) {
		t.Helper()
		restored := builds.NewStore()
		if err := restored.Restore(bytes.NewReader(buildstest.Dump(t, m.Store))); err != nil {
			t.Fatal(err)
		}
		for i, store := range []*builds.Store{m.Store, restored} {
			var got []string
			store.View().QueuedByDeadline(func(r *buildsv1.Record) bool { got = append(got, r.Build.Id); return true })
			if diff := cmp.Diff(ids, got); diff != "" {
				t.Errorf("%s, state %d: %s", when, i, diff)
			}
		}
	}
	want("at level 4", next, other)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	want("at this level", other)
	m.Now = m.Now.Add(time.Second)
	m.Finish(first, epoch, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
	want("after the end of the former build", other, next)
}
