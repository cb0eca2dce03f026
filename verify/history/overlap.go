package history

import (
	"cmp"
	"fmt"
	"slices"
)

// checkOverlaps wants at most one active build per ref, by what the service
// itself told of indexes and times. A build that was asked to stop may have a
// successor that waits for it; beside a build that is live none is active.
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

// overlapByIndex looks for a build that was active, and not asked to stop, at
// a version beyond the index that created a later one, or active at all
// beyond a version at which a later one was live.
func overlapByIndex(all []*build) (Violation, bool) {
	var bs []*build
	for _, b := range all {
		if b.createdIndex > 0 {
			bs = append(bs, b)
		}
	}
	slices.SortFunc(bs, func(x, y *build) int { return cmp.Compare(x.createdIndex, y.createdIndex) })
	var wanted, active Record // of the former builds, at the greatest version
	for _, b := range bs {
		if v := wanted.Out.Build; v.Version > b.createdIndex {
			return Violation{Invariant: OneActive, Message: fmt.Sprintf("build %s was %s at index %d, but build %s was created at index %d", v.ID, v.Phase, v.Version, b.id, b.createdIndex), Calls: []Record{b.created, wanted}}, true
		}
		for _, r := range b.sights {
			if v := active.Out.Build; r.Out.Build.Phase.live() && r.Out.Build.Version > 0 && v.Version > r.Out.Build.Version {
				return Violation{Invariant: OneActive, Message: fmt.Sprintf("build %s was %s at index %d, but build %s was already %s at index %d", v.ID, v.Phase, v.Version, b.id, r.Out.Build.Phase, r.Out.Build.Version), Calls: []Record{r, active}}, true
			}
		}
		for _, r := range b.sights {
			s := r.Out.Build
			if !s.Phase.active() {
				continue
			}
			if s.Version > active.Out.Build.Version {
				active = r
			}
			if !s.CancelRequested && !b.overdue && s.Version > wanted.Out.Build.Version {
				wanted = r
			}
		}
	}
	return Violation{}, false
}

// overlapByTime looks for a build that ended later, by the service's clock,
// than the next one was created, although nothing had asked it to stop.
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
		if f := former.Out.Build; f.EndedAt > b.createdAt {
			return Violation{Invariant: OneActive, Message: fmt.Sprintf("build %s was created %d ns before build %s had %s", b.id, f.EndedAt-b.createdAt, f.ID, f.Phase.verb()), Calls: []Record{b.acknowledged(), former}}, true
		}
		if s := b.last.Out.Build; (b.final == Succeeded || b.final == Failed) && !b.overdue && s.EndedAt > former.Out.Build.EndedAt {
			former = b.last
		}
	}
	return Violation{}, false
}
