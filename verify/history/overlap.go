package history

import (
	"cmp"
	"fmt"
	"slices"
)

// checkOverlaps checks that at most one build per ref is active, by the indexes and times in the
// responses. A build that stops may have a successor that waits for it, and so may a build that
// began before a forced request. While a build is live, no other build of the ref is active, except
// for such a successor.
func checkOverlaps(e *evidence, _ Options) (out []Violation) {
	for _, ref := range e.refs {
		for _, check := range []func([]*build) (Violation, bool){overlapByIndex, overlapByTime} {
			if v, bad := check(e.byRef[ref]); bad {
				v.Ref = ref
				out = append(out, v)
				break
			}
		}
	}
	return out
}

// overlapByIndex finds a build that was active, and not stopping, at a version after the index that
// created a later build; or that was active at a version after one at which a later build was live.
func overlapByIndex(all []*build) (Violation, bool) {
	var bs []*build
	for _, b := range all {
		if b.createdIndex > 0 {
			bs = append(bs, b)
		}
	}
	slices.SortFunc(bs, func(x, y *build) int { return cmp.Compare(x.createdIndex, y.createdIndex) })
	var running, active Record // of the earlier builds, at the greatest version; running is not stopping
	for _, b := range bs {
		if v := running.Out.Build; v.Version > b.createdIndex && !b.waits {
			return Violation{Invariant: OneActive, Message: fmt.Sprintf("build %s was %s at index %d, but build %s was created at index %d", v.ID, v.Phase, v.Version, b.id, b.createdIndex), Calls: []Record{b.created, running}}, true
		}
		for _, r := range b.observations {
			if v := active.Out.Build; r.Out.Build.Phase.live() && r.Out.Build.Version > 0 && v.Version > r.Out.Build.Version {
				return Violation{Invariant: OneActive, Message: fmt.Sprintf("build %s was %s at index %d, but build %s was already %s at index %d", v.ID, v.Phase, v.Version, b.id, r.Out.Build.Phase, r.Out.Build.Version), Calls: []Record{r, active}}, true
			}
		}
		for _, r := range b.observations {
			s := r.Out.Build
			if !s.Phase.active() {
				continue
			}
			if s.Version > active.Out.Build.Version {
				active = r
			}
			if !s.CancelRequested && !b.overdue && s.Version > running.Out.Build.Version {
				running = r
			}
		}
	}
	return Violation{}, false
}

// overlapByTime finds a build that ended, by the clock of the service, after the next build was
// created, although nothing stopped it.
func overlapByTime(all []*build) (Violation, bool) {
	var bs []*build
	for _, b := range all {
		if b.createdAt > 0 {
			bs = append(bs, b)
		}
	}
	slices.SortStableFunc(bs, func(x, y *build) int { return cmp.Compare(x.createdAt, y.createdAt) })
	var former Record
	for _, b := range bs {
		if f := former.Out.Build; f.EndedAt > b.createdAt && !b.waits {
			return Violation{Invariant: OneActive, Message: fmt.Sprintf("build %s was created %d ns before build %s had %s", b.id, f.EndedAt-b.createdAt, f.ID, f.Phase.verb()), Calls: []Record{b.acknowledged(), former}}, true
		}
		if s := b.last.Out.Build; (b.final == Succeeded || b.final == Failed) && !b.overdue && s.EndedAt > former.Out.Build.EndedAt {
			former = b.last
		}
	}
	return Violation{}, false
}
