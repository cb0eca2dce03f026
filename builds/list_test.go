package builds_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_Select compares selections with a scan of all builds, for every page token, before and after
// the level at which the order of builds changes. From that level on, a selection by one field reads
// no other builds.
func Test_Select(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := buildstest.NewMachine(t)
		level := uint32(rapid.SampledFrom([]int{4, builds.FeatureLevel}).Draw(rt, "level"))
		m.Must(&buildsv1.SetFeatureLevel{Level: level})
		tokens := []string{"", "unknown"}
		for range rapid.IntRange(1, 30).Draw(rt, "builds") {
			id := fmt.Sprintf("%08d-0000-7000-8000-%012d", rapid.IntRange(0, 50).Draw(rt, "clock"), m.Index)
			res := m.Create(fmt.Sprint("r:", rapid.IntRange(0, 3).Draw(rt, "ref")), buildstest.By(rapid.SampledFrom([]string{"a", "ab", "b"}).Draw(rt, "requester")), func(c *buildsv1.CreateBuild) {
				c.Id = id
			})
			tokens = append(tokens, id)
			if rapid.Bool().Draw(rt, "ends") {
				m.Stop(res.Build.Id, buildsv1.StopReason_STOP_REASON_OPERATOR, "")
			}
		}
		if rapid.Bool().Draw(rt, "raise") {
			m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		}
		sel := builds.Selection{
			Ref:       rapid.SampledFrom([]string{"", "r:1", "r:2"}).Draw(rt, "of ref"),
			Requester: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(rt, "of requester"),
			Active:    rapid.Bool().Draw(rt, "active"),
		}
		for _, s := range []*builds.State{m.Store.View(), restored(t, m.Store).View()} {
			for _, before := range tokens {
				var want, got []string
				others := 0
				into := func(ids *[]string) func(*buildsv1.Record) bool {
					return func(r *buildsv1.Record) bool {
						b := r.Build
						if (sel.Ref == "" || b.Ref == sel.Ref) && (sel.Requester == "" || b.Requester == sel.Requester) && (!sel.Active || !builds.Terminal(b.Phase)) {
							*ids = append(*ids, b.Id)
						} else {
							others++
						}
						return true
					}
				}
				s.Descend(before, into(&want))
				others = 0
				s.Select(sel, before, into(&got))
				if !slices.Equal(want, got) {
					rt.Fatalf("%+v before %q:\n%v, want\n%v", sel, before, got, want)
				}
				single := sel == builds.Selection{Ref: sel.Ref} || sel == builds.Selection{Requester: sel.Requester} || sel == builds.Selection{Active: sel.Active}
				if single && others > 0 && s.Level() >= builds.FeatureLevel {
					rt.Fatalf("%+v before %q read %d other builds", sel, before, others)
				}
			}
		}
	})
}
