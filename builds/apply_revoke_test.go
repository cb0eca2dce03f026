package builds_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func level(m *buildstest.Machine, l uint32) { m.Must(&buildsv1.SetFeatureLevel{Level: l}) }

// Test_Revoke: the leader ends an attempt whose stop was requested, and no other one. The former
// owner is fenced, and another node seals the log.
func Test_Revoke(t *testing.T) {
	for name, c := range map[string]struct {
		reason buildsv1.StopReason
		at     imagebuilderv1.Phase
		want   imagebuilderv1.Phase
	}{
		"cancelled while it runs":       {byOperator, builds.Running, builds.Cancelled},
		"overdue while it runs":         {byDeadline, builds.Running, builds.Failed},
		"overdue while it is pushed":    {byDeadline, builds.Pushing, builds.Failed},
		"overdue before it has begun":   {byDeadline, builds.Assigned, builds.Failed},
		"cancelled before it has begun": {byRequester, builds.Assigned, builds.Cancelled},
	} {
		t.Run(name, func(t *testing.T) {
			m := buildstest.NewMachine(t)
			level(m, builds.RevokeLevel)
			m.Must(&buildsv1.NodeStarted{Name: "n2", StoreId: "s2", BootId: "boot-1", Capacity: 1, Runtimes: []string{"copy"}})
			id := m.Create("r:1").Build.Id
			owner, other := &imagebuilderv1.LogCopy{Node: "n1", StoreId: "s1"}, &imagebuilderv1.LogCopy{Node: "n2", StoreId: "s2"}
			m.Must(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
				BuildId: id, Attempt: 1, Owner: "n1", OwnerStoreId: "s1", Epoch: 1, BuildVersion: m.Build(id).Version, Runtime: "copy",
				Replicas: 2, Copies: []*imagebuilderv1.LogCopy{owner, other},
			}}})
			if c.at != builds.Assigned {
				m.Report(id, 1, c.at, "sha256:d")
			}
			revoke := &buildsv1.RevokeAttempt{BuildId: id, Attempt: 1, Epoch: 1}
			if res := m.Apply(revoke); res.Err == nil {
				t.Fatal("an attempt was ended although nobody requested its stop")
			}
			m.Now = m.Now.Add(2 * time.Hour)
			if res := m.Stop(id, c.reason, "alice"); res.Err != nil {
				t.Fatal(res.Err)
			}
			if got := m.Store.Build(id).StopUnixNano; got != m.Now.UnixNano() {
				t.Errorf("the stop was requested at %d, want %d", got, m.Now.UnixNano())
			}
			if res := m.Apply(&buildsv1.RevokeAttempt{BuildId: id, Attempt: 1, Epoch: 2}); !errors.Is(res.Err, builds.ErrFenced) {
				t.Errorf("another epoch: %v", res.Err)
			}
			m.Must(revoke)
			m.WantPhase(id, c.want)
			a := m.Build(id).Attempts[0]
			if a.Epoch != 2 || a.Log.State != builds.LogSealing || a.Log.Sealer.GetNode() != "n2" {
				t.Errorf("the attempt has epoch %d and the log %v", a.Epoch, a.Log)
			}
			if res := m.Finish(id, 1, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:d"}); !errors.Is(res.Err, builds.ErrFenced) {
				t.Errorf("the former owner ends the attempt: %v", res.Err)
			}
			if res := m.Apply(revoke); !errors.Is(res.Err, builds.ErrFenced) {
				t.Errorf("the command again: %v", res.Err)
			}
		})
	}
}

// Test_Revoke_StopsOfAnOlderVersion: a stop that was requested below the level counts from the rise
// of the level on. Below the level nothing is recorded.
func Test_Revoke_StopsOfAnOlderVersion(t *testing.T) {
	m := buildstest.NewMachine(t)
	level(m, builds.RevokeLevel-1)
	id := m.Create("r:1").Build.Id
	m.Assign(id)
	m.Stop(id, byOperator, "")
	if got := m.Store.Build(id).StopUnixNano; got != 0 {
		t.Fatalf("below the level a time of the stop is recorded: %d", got)
	}
	m.Now = m.Now.Add(time.Minute)
	level(m, builds.RevokeLevel)
	if got := m.Store.Build(id).StopUnixNano; got != m.Now.UnixNano() {
		t.Errorf("the stop counts from %d on, want %d", got, m.Now.UnixNano())
	}
}

// Test_Stop_TooLateOnceTagged: a build whose digest was committed may be public. It cannot be
// cancelled after its owner was lost either. Its deadline still ends it.
func Test_Stop_TooLateOnceTagged(t *testing.T) {
	for l, want := range map[uint32]error{4: nil, 5: builds.ErrTooLate} {
		m := buildstest.NewMachine(t)
		level(m, l)
		id := m.Create("r:1").Build.Id
		m.Report(id, m.Assign(id), builds.Pushing, "sha256:d")
		m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-2", Capacity: 9, Runtimes: []string{"copy"}})
		m.WantPhase(id, builds.Queued)
		if res := m.Stop(id, byOperator, ""); !errors.Is(res.Err, want) {
			t.Errorf("level %d: %v, want %v", l, res.Err, want)
		}
		if want == nil {
			continue
		}
		m.Assign(id)
		if res := m.Stop(id, byRequester, "alice"); !errors.Is(res.Err, want) {
			t.Errorf("level %d, in the next attempt: %v, want %v", l, res.Err, want)
		}
		m.Now = m.Now.Add(2 * time.Hour)
		if res := m.Stop(id, byDeadline, ""); res.Err != nil {
			t.Errorf("level %d, after the deadline: %v", l, res.Err)
		}
	}
}

// Test_Retry_UncountedAttemptsPause: the first attempt that ends with its node is repeated at once,
// the others after a growing pause.
func Test_Retry_UncountedAttemptsPause(t *testing.T) {
	second := time.Second
	for l, want := range map[uint32][]time.Duration{
		4: {0, 0, 0, 0, 0, 0, 0, 0, 0},
		5: {0, second, 2 * second, 4 * second, 8 * second, 16 * second, 32 * second, 60 * second, 60 * second},
	} {
		m := buildstest.NewMachine(t)
		level(m, l)
		id := m.Create("r:1").Build.Id
		var pauses []time.Duration
		for {
			end := buildstest.Failed(builds.BlameInfrastructure, "the key is missing")
			end.Uncounted = true
			m.Finish(id, m.Assign(id), end)
			if m.Build(id).Phase != builds.Queued {
				break
			}
			pause := time.Duration(0)
			if nb := m.Build(id).NotBefore; nb != nil {
				pause = nb.AsTime().Sub(m.Now)
			}
			pauses = append(pauses, pause)
		}
		if diff := cmp.Diff(want, pauses); diff != "" {
			t.Errorf("level %d: %s", l, diff)
		}
	}
}
