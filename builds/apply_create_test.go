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

func Test_Create_SameRefAttaches(t *testing.T) {
	m := buildstest.NewMachine(t)
	first := m.Create("r:1")
	second := m.Create("r:1", buildstest.By("bob"))
	if !second.Attached || second.Build.Id != first.Build.Id {
		t.Fatalf("second request got build %s attached=%v, want to join %s", second.Build.Id, second.Attached, first.Build.Id)
	}
	if diff := cmp.Diff([]string{"alice", "bob"}, m.Build(first.Build.Id).Requesters); diff != "" {
		t.Error(diff)
	}
	if other := m.Create("r:2"); other.Attached {
		t.Error("another ref joined the build")
	}
}

func Test_Create_RequestIDAnswersTheSameBuild(t *testing.T) {
	m := buildstest.NewMachine(t)
	first := m.Create("r:1", buildstest.WithRequest("q1", "h"))
	m.Succeed(first.Build.Id)
	again := m.Create("r:1", buildstest.WithRequest("q1", "h"))
	if again.Build.GetId() != first.Build.Id || !again.Repeated || again.Attached {
		t.Errorf("got %+v, want the first build, repeated, not attached", again)
	}
	if res := m.Create("r:1", buildstest.WithRequest("q1", "other")); !errors.Is(res.Err, builds.ErrRequestReused) {
		t.Errorf("another payload: got %v, want %v", res.Err, builds.ErrRequestReused)
	}
	if res := m.Create("r:1", buildstest.By("bob"), buildstest.WithRequest("q1", "other")); res.Err != nil {
		t.Errorf("another requester with the same id: %v", res.Err)
	}
	m.Now = m.Now.Add(24*time.Hour + 1)
	m.Must(&buildsv1.Reap{}) // each command removes expired ids
	if res := m.Create("r:2", buildstest.WithRequest("q1", "h")); res.Err != nil || res.Build.Id == first.Build.Id {
		t.Errorf("after the ids' age: got %v, want a new build", res.Err)
	}
}

// Test_Create_MadeRequestIDsAreSoonForgotten checks the retention of request ids that the service
// generated. No client knows them once their call has ended. A snapshot records which ids these
// are.
func Test_Create_MadeRequestIDsAreSoonForgotten(t *testing.T) {
	made := func(c *buildsv1.CreateBuild) { c.RequestMade = true }
	for level, forgets := range map[uint32]bool{3: false, 4: true} {
		m := buildstest.NewMachine(t)
		m.Must(&buildsv1.SetFeatureLevel{Level: level})
		m.Create("r:1", buildstest.WithRequest("made", ""), made)
		m.Create("r:2", buildstest.WithRequest("chosen", "h"))
		m.Now = m.Now.Add(9 * time.Minute)
		m.Must(&buildsv1.Reap{})
		if m.Store.View().Request("alice", "made") == nil {
			t.Errorf("level %d: forgotten after 9 minutes", level)
		}
		if err := m.Store.Restore(bytes.NewReader(buildstest.Dump(t, m.Store))); err != nil {
			t.Fatal(err)
		}
		m.Now = m.Now.Add(time.Minute)
		m.Must(&buildsv1.Reap{})
		if forgot := m.Store.View().Request("alice", "made") == nil; forgot != forgets {
			t.Errorf("level %d: forgotten after 10 minutes: %v", level, forgot)
		}
		if m.Store.View().Request("alice", "chosen") == nil {
			t.Errorf("level %d: an id that the caller chose is forgotten", level)
		}
	}
}

func Test_Create_FinishedSinceTheLookAttaches(t *testing.T) {
	m := buildstest.NewMachine(t)
	looked := m.Index
	first := m.Create("r:1")
	m.Succeed(first.Build.Id)
	late := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.CheckedIndex = looked })
	if !late.Attached || late.Build.Id != first.Build.Id {
		t.Errorf("got a new build, want the one that succeeded after the look-up")
	}
	forced := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.CheckedIndex, c.Force = looked, true })
	if forced.Attached {
		t.Error("a forced request got an old build")
	}
	m.Succeed(forced.Build.Id)
	if fresh := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.CheckedIndex = m.Index }); fresh.Attached {
		t.Error("the request got a build that ended before the look-up")
	}
}

// Test_Create_LooksAgain: a request of a node that was behind does not join a build that ended long
// ago, because its image may have been removed since.
func Test_Create_LooksAgain(t *testing.T) {
	for level, want := range map[uint32]error{4: nil, builds.FeatureLevel: builds.ErrLookAgain} {
		m := buildstest.NewMachine(t)
		m.Must(&buildsv1.SetFeatureLevel{Level: level})
		looked := m.Index
		m.Succeed(m.Create("r:1").Build.Id)
		behind := func(c *buildsv1.CreateBuild) { c.CheckedIndex = looked }
		m.Now = m.Now.Add(time.Minute)
		if res := m.Create("r:1", behind); res.Err != nil || !res.Attached {
			t.Errorf("level %d, a minute after the end: %+v, want the build that succeeded", level, res)
		}
		m.Now = m.Now.Add(time.Second)
		if res := m.Create("r:1", behind); !errors.Is(res.Err, want) {
			t.Errorf("level %d, later: %v, want %v", level, res.Err, want)
		}
		if res := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.CheckedIndex = m.Index }); res.Err != nil || res.Attached {
			t.Errorf("level %d, after another look: %+v, want a new build", level, res)
		}
	}
}

func Test_Create_QueueLimit(t *testing.T) {
	m := buildstest.NewMachine(t)
	set := builds.DefaultSettings()
	set.QueueTotal = 1
	m.Must(&buildsv1.PutSettings{Settings: set})
	m.Create("r:1")
	if res := m.Create("r:2"); !errors.Is(res.Err, builds.ErrQueueFull) {
		t.Errorf("got %v, want %v", res.Err, builds.ErrQueueFull)
	}
	if res := m.Create("r:1"); res.Err != nil {
		t.Errorf("joining a queued build: %v", res.Err)
	}
}

func Test_Successor_WaitsForTheStoppingBuild(t *testing.T) {
	m := buildstest.NewMachine(t)
	first := m.Create("r:1").Build.Id
	e := m.Assign(first)
	m.Stop(first, byRequester, "alice")
	next := m.Create("r:1", buildstest.By("bob"))
	if next.Attached || next.Build.Id == first {
		t.Fatal("the request joined a build that is about to end")
	}
	if third := m.Create("r:1", buildstest.By("carol")); third.Build.Id != next.Build.Id || !third.Attached {
		t.Error("the third request did not join the successor")
	}
	b := m.Build(next.Build.Id)
	res := m.Must(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
		BuildId: b.Id, Attempt: 1, Owner: "n1", OwnerStoreId: "s1", Epoch: 1, BuildVersion: b.Version,
	}}})
	if res.Refused != 1 {
		t.Fatal("the successor runs beside the current build")
	}
	m.Finish(first, e, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
	m.WantPhase(first, builds.Cancelled)
	m.Succeed(b.Id)
}
