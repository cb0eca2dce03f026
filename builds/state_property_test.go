package builds_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_State_Invariants applies random valid and invalid commands and checks the invariants of the
// state after each. At the end it checks that a snapshot restores to the same state.
func Test_State_Invariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := buildstest.NewMachine(t)
		set := builds.DefaultSettings()
		set.HistoryTotal, set.HistoryMinAgeNanos = 10, int64(time.Minute)
		m.Must(&buildsv1.PutSettings{Settings: set})
		var ids []string
		pick := func(rt *rapid.T) (string, uint32, uint64) {
			if len(ids) == 0 {
				return "none", 1, 1
			}
			id := rapid.SampledFrom(ids).Draw(rt, "build")
			a := builds.LastAttempt(m.Store.Build(id).GetBuild())
			return id, a.GetNumber(), a.GetEpoch() - uint64(rapid.IntRange(0, 1).Draw(rt, "stale"))*a.GetEpoch()/2
		}
		ended := map[string]imagebuilderv1.Phase{}
		rt.Repeat(map[string]func(*rapid.T){
			"create": func(rt *rapid.T) {
				res := m.Create(fmt.Sprintf("r:%d", rapid.IntRange(0, 4).Draw(rt, "ref")), buildstest.By(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "who")),
					func(c *buildsv1.CreateBuild) {
						c.RequestId = rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(rt, "request id")
						c.Force = rapid.Bool().Draw(rt, "force")
						c.Fresh = c.Force && rapid.Bool().Draw(rt, "fresh")
						c.Source = imageSource(rapid.SampledFrom([]string{"base", "base@sha256:1"}).Draw(rt, "source"))
					})
				if res.Build != nil && !res.Attached {
					ids = append(ids, res.Build.Id)
				}
			},
			"cache": func(rt *rapid.T) {
				m.Must(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: rapid.SampledFrom([]string{"a:1", "b:1"}).Draw(rt, "cached")}})
			},
			"assign": func(rt *rapid.T) {
				id, n, e := pick(rt)
				m.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
					BuildId: id, Attempt: n + 1, Epoch: e + 2, Owner: "n1", OwnerStoreId: "s1",
					Adoptable:    m.Store.View().Level() >= builds.AllAttemptsLevel && rapid.Bool().Draw(rt, "adoptable"),
					BuildVersion: m.Store.Build(id).GetBuild().GetVersion(),
				}}})
			},
			"report": func(rt *rapid.T) {
				id, n, e := pick(rt)
				m.Apply(&buildsv1.ReportPhase{BuildId: id, Attempt: n, Epoch: e, Phase: phase(int32(rapid.IntRange(0, 8).Draw(rt, "phase"))), Digest: rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "digest")})
			},
			"finish": func(rt *rapid.T) {
				id, n, e := pick(rt)
				m.Apply(&buildsv1.FinishAttempt{
					BuildId: id, Attempt: n, Epoch: e, Phase: phase(int32(rapid.IntRange(0, 8).Draw(rt, "phase"))),
					Blame: blameOf(int32(rapid.IntRange(0, 5).Draw(rt, "blame"))), Digest: rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "digest"),
				})
			},
			"stop": func(rt *rapid.T) {
				id, _, _ := pick(rt)
				m.Stop(id, buildsv1.StopReason(rapid.IntRange(1, 3).Draw(rt, "reason")), rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "who"))
			},
			"revoke": func(rt *rapid.T) {
				id, n, e := pick(rt)
				m.Apply(&buildsv1.RevokeAttempt{BuildId: id, Attempt: n, Epoch: e})
			},
			"restart": func(*rapid.T) {
				m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: fmt.Sprint(m.Index), Capacity: 1})
			},
			"lost": func(*rapid.T) {
				m.Apply(&buildsv1.NodeLost{Name: "n1", StoreId: "s1", BootId: m.Store.View().Node("n1").GetBootId(), AllAttempts: true})
			},
			"expire": func(rt *rapid.T) {
				id, _, _ := pick(rt)
				m.Apply(&buildsv1.ExpireLogs{BuildIds: []string{id}})
			},
			"time": func(rt *rapid.T) {
				m.Now = m.Now.Add(time.Duration(rapid.IntRange(-60, 120).Draw(rt, "seconds")) * time.Second)
				m.Must(&buildsv1.Reap{})
			},
			"level": func(rt *rapid.T) {
				m.Apply(&buildsv1.SetFeatureLevel{Level: uint32(rapid.IntRange(1, builds.FeatureLevel).Draw(rt, "level"))})
			},
			"hash": func(*rapid.T) { checkHash(rt, t, m.Store) },
			"":     func(rt *rapid.T) { checkInvariants(rt, m.Store.View(), ended) },
		})
		before := buildstest.Dump(t, m.Store)
		restored := builds.NewStore()
		if err := restored.Restore(bytes.NewReader(before)); err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(before, buildstest.Dump(t, restored)) {
			rt.Fatal("a restored state differs from the one that was saved")
		}
		checkInvariants(rt, restored.View(), ended)
		if d := cmp.Diff(restored.View().Schedule(), m.Store.View().Schedule()); d != "" {
			rt.Fatalf("tables that changes have kept differ from those of the records (-records +changes):\n%s", d)
		}
		checkHash(rt, t, m.Store)
	})
}

// checkInvariants checks a state. ended holds the terminal phases of all builds seen so far.
func checkInvariants(t *rapid.T, s *builds.State, ended map[string]imagebuilderv1.Phase) {
	active := map[string]int{}
	var queued, live, successors, total int
	s.Descend("", func(r *buildsv1.Record) bool {
		b := r.Build
		total++
		if was, ok := ended[b.Id]; ok && was != b.Phase {
			t.Fatalf("build %s ended as %s and is now %s", b.Id, was, b.Phase)
		}
		switch {
		case builds.Terminal(b.Phase):
			ended[b.Id] = b.Phase
			if r.Secrets != nil || b.EndedAt == nil || r.EndedIndex == 0 {
				t.Fatalf("ended build %s keeps secrets or has no end", b.Id)
			}
		case builds.Live(b.Phase):
			live++
			active[b.Ref]++
			if a := builds.LastAttempt(b); a.Phase != b.Phase || a.Epoch != builds.MaxEpoch(b) {
				t.Fatalf("live build %s: its attempt is %s with epoch %d of %d", b.Id, a.Phase, a.Epoch, builds.MaxEpoch(b))
			}
			if r.Successor {
				t.Fatalf("successor %s is live", b.Id)
			}
		default:
			queued++
			if r.Successor {
				successors++
			} else {
				active[b.Ref]++
			}
		}
		for i, a := range b.Attempts {
			if int(a.Number) != i+1 || (builds.Live(a.Phase) && i < len(b.Attempts)-1) {
				t.Fatalf("build %s: attempt %d at place %d is %s", b.Id, a.Number, i, a.Phase)
			}
			for j := 1; j < len(a.History); j++ {
				if a.History[j].Phase <= a.History[j-1].Phase {
					t.Fatalf("build %s: attempt %d went from %s to %s", b.Id, a.Number, a.History[j-1].Phase, a.History[j].Phase)
				}
			}
		}
		return true
	})
	for ref, n := range active {
		if n != 1 || s.Active(ref) == nil {
			t.Fatalf("%d current builds of %s, and the index says %v", n, ref, s.Active(ref).GetBuild().GetId())
		}
	}
	inOrder, last := 0, time.Time{}
	s.QueuedByDeadline(func(r *buildsv1.Record) bool {
		if t2 := r.Build.Deadline.AsTime(); s.Build(r.Build.Id) != r || r.Build.Phase != builds.Queued || t2.Before(last) {
			t.Fatalf("build %s is %s and stands in the order of deadlines", r.Build.Id, r.Build.Phase)
		} else {
			last = t2
		}
		inOrder++
		return true
	})
	want := queued
	if s.Level() >= builds.SuccessorDeadlineLevel {
		want -= successors
	}
	if inOrder != want {
		t.Fatalf("%d builds stand in the order of deadlines, %d are queued, %d of them successors", inOrder, queued, successors)
	}
	c := s.Counts()
	if c.Queued != queued || c.Live != live || c.Builds != total || c.History != total-queued-live {
		t.Fatalf("indexes count %+v, the table holds %d queued, %d live, %d in all", c, queued, live, total)
	}
}
