package scheduler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// byKind is the runtime of a source in a world with two runtimes.
func byKind(s *imagebuilderv1.Source) string {
	if s.GetRef() != nil {
		return "copy"
	}
	return "buildkit"
}

// simplyFair returns the ids of the builds that should start, by reading the whole queue for each
// build: the oldest build of the requester with the fewest running builds, among the builds that may
// start and whose runtime has a free place.
func simplyFair(s *builds.State, now time.Time, free map[string]int) (ids []string) {
	running := map[string]int{}
	s.Live(func(r *buildsv1.Record) bool { running[r.Build.Requester]++; return true })
	limit := int(s.Settings().RunningPerRequester)
	for {
		var best *buildsv1.Record
		s.Queued(func(r *buildsv1.Record) bool {
			b := r.Build
			n := running[b.Requester]
			waits := r.Successor || b.NotBefore != nil && now.Before(b.NotBefore.AsTime()) || !now.Before(b.Deadline.AsTime())
			if waits || slices.Contains(ids, b.Id) || limit > 0 && n >= limit || free[byKind(b.Source)] == 0 {
				return true
			}
			if best == nil || n < running[best.Build.Requester] {
				best = r
			}
			return true
		})
		if best == nil {
			return ids
		}
		ids = append(ids, best.Build.Id)
		running[best.Build.Requester]++
		free[byKind(best.Build.Source)]--
	}
}

// Test_Turns_AsFairAsAScan compares decisions with those that read the whole queue, after random
// commands and at random times.
func Test_Turns_AsFairAsAScan(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := schedulertest.NewWorld(t)
		w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		set := builds.DefaultSettings()
		set.RunningPerRequester = uint32(rapid.IntRange(0, 4).Draw(rt, "limit"))
		w.Apply(&buildsv1.PutSettings{Settings: set})
		places := map[string]int{}
		for _, name := range []string{"copy", "buildkit"} {
			places[name] = rapid.IntRange(0, 6).Draw(rt, "places of "+name)
			w.Apply(&buildsv1.NodeStarted{Name: name, StoreId: "s", BootId: "b", Capacity: uint32(places[name]), Runtimes: []string{name}})
		}
		decision := func(now time.Time) decision {
			return decide(w.Store.View(), now, rules{alive: func(*buildsv1.Node) bool { return true }, runtime: byKind})
		}
		live := func() (out []*buildsv1.Record) {
			w.Store.View().Live(func(r *buildsv1.Record) bool { out = append(out, r); return true })
			return out
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create": func(rt *rapid.T) {
				src := &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{}}}
				if rapid.Bool().Draw(rt, "copy") {
					src = &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "b"}}}
				}
				w.Apply(&buildsv1.CreateBuild{
					Id: fmt.Sprintf("%02d-%d", rapid.IntRange(0, 99).Draw(rt, "clock"), w.Index), Ref: fmt.Sprint("r:", rapid.IntRange(0, 30).Draw(rt, "ref")),
					Requester: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "requester"), Source: src, Force: true, Fresh: true,
					TimeoutNanos: int64(rapid.IntRange(1, 100).Draw(rt, "timeout")) * int64(time.Second),
				})
			},
			"assign": func(*rapid.T) { w.Apply(&buildsv1.AssignAttempt{Assignments: decision(w.Now).assign}) },
			"end": func(rt *rapid.T) {
				if all := live(); len(all) > 0 {
					r := rapid.SampledFrom(all).Draw(rt, "build")
					a := builds.LastAttempt(r.Build)
					w.Apply(&buildsv1.FinishAttempt{
						BuildId: r.Build.Id, Attempt: a.Number, Epoch: a.Epoch, Phase: builds.Failed,
						Blame: rapid.SampledFrom([]imagebuilderv1.Blame{builds.BlameUser, builds.BlameInfrastructure}).Draw(rt, "blame"),
					})
				}
			},
			"stop": func(*rapid.T) {
				for _, id := range decision(w.Now).overdue {
					w.Apply(&buildsv1.StopBuild{BuildId: id, Reason: buildsv1.StopReason_STOP_REASON_DEADLINE})
				}
			},
			"time": func(rt *rapid.T) {
				w.Now = w.Now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(rt, "milliseconds")) * time.Millisecond)
			},
			"": func(rt *rapid.T) {
				s := w.Store.View()
				for _, now := range []time.Time{w.Now, w.Now.Add(1500 * time.Millisecond)} {
					free := map[string]int{}
					for name, n := range places {
						free[name] = n - s.Owned(name)
					}
					var got []string
					for _, a := range decision(now).assign {
						got = append(got, a.BuildId)
					}
					if d := cmp.Diff(simplyFair(s, now, free), got); d != "" {
						rt.Fatalf("builds that start (-scan +turns):\n%s", d)
					}
				}
			},
		})
	})
}
