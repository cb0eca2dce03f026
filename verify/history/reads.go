package history

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
)

// checkFound checks that calls find acknowledged builds.
func checkFound(e *evidence, o Options) (out []Violation) {
	for _, id := range e.ids {
		b := e.builds[id]
		for _, r := range b.missing {
			if o.Retention && b.final != "" {
				continue
			}
			switch ack := b.acknowledged(); {
			case ack.End < r.Start:
				out = append(out, Violation{NeverLost, b.ref, fmt.Sprintf("build %s was acknowledged, and a later call did not find it", id), []Record{ack, r}})
			case b.createdIndex > 0 && r.Op.MinIndex >= b.createdIndex:
				out = append(out, Violation{NeverLost, b.ref, fmt.Sprintf("build %s was created at index %d, and a read did not find it at index %d", id, b.createdIndex, r.Op.MinIndex), []Record{ack, r}})
			default:
				continue
			}
			break
		}
	}
	return out
}

// acknowledged returns the create whose response was the first to name the build.
func (b *build) acknowledged() Record {
	first := b.requests[0].responses[0]
	for _, q := range b.requests {
		if q.responses[0].End < first.End {
			first = q.responses[0]
		}
	}
	return first
}

// checkFresh checks that reads are as fresh as they promise: not older than their min_index and, if
// they are linearizable, not older than any response before their start. It also checks that one
// version of a build is the same in all responses.
func checkFresh(e *evidence, _ Options) (out []Violation) {
	for _, id := range e.ids {
		b := e.builds[id]
		f := newFreshness(b)
		for _, r := range b.observations {
			if v, bad := f.judge(r); bad {
				v.Ref = b.ref
				out = append(out, v)
				break
			}
		}
	}
	return out
}

// freshness determines how new a response about one build must be.
type freshness struct {
	b *build
	// versions are the observations with a version, by version.
	versions []Record
	// newest holds, for each observation, the one with the greatest version among it and the
	// observations that ended before it.
	newest []Record
	// ended is the terminal observation with the smallest index.
	ended Record
}

func newFreshness(b *build) *freshness {
	f := &freshness{b: b}
	var newest Record
	for _, r := range b.observations {
		if r.Out.Build.Version > 0 {
			f.versions = append(f.versions, r)
		}
		if r.Out.Build.Version > newest.Out.Build.Version {
			newest = r
		}
		f.newest = append(f.newest, newest)
		if r.Out.Build.Phase.Terminal() && r.Out.Index > 0 && (f.ended.Out.Index == 0 || r.Out.Index < f.ended.Out.Index) {
			f.ended = r
		}
	}
	slices.SortStableFunc(f.versions, func(x, y Record) int { return cmp.Compare(x.Out.Build.Version, y.Out.Build.Version) })
	return f
}

// upTo returns the observation with the greatest version up to an index.
func (f *freshness) upTo(index uint64) (Record, bool) {
	i := sort.Search(len(f.versions), func(i int) bool { return f.versions[i].Out.Build.Version > index })
	if i == 0 {
		return Record{}, false
	}
	return f.versions[i-1], true
}

// before returns the observation with the greatest version among those that ended before a time.
func (f *freshness) before(t int64) (Record, bool) {
	i := sort.Search(len(f.b.observations), func(i int) bool { return f.b.observations[i].End >= t })
	if i == 0 {
		return Record{}, false
	}
	return f.newest[i-1], f.newest[i-1].Start > 0
}

// judge reports whether an observation is not as fresh as it must be.
func (f *freshness) judge(r Record) (Violation, bool) {
	id, s := f.b.id, r.Out.Build
	if s.Version > 0 {
		if other, ok := f.upTo(s.Version); ok && other.Out.Build.Phase != s.Phase {
			return Violation{Invariant: FreshReads, Message: fmt.Sprintf("version %d of build %s was reported as %s and as %s", s.Version, id, other.Out.Build.Phase, s.Phase), Calls: []Record{other, r}}, true
		}
	}
	if r.Op.Kind != Read {
		return Violation{}, false
	}
	if m := r.Op.MinIndex; m > 0 {
		if r.Out.Index > 0 && r.Out.Index < m {
			return Violation{Invariant: FreshReads, Message: fmt.Sprintf("a read of build %s with min_index %d got a response from index %d", id, m, r.Out.Index), Calls: []Record{r}}, true
		}
		if other, ok := f.upTo(m); ok && s.Version > 0 && s.Version < other.Out.Build.Version {
			return Violation{Invariant: FreshReads, Message: fmt.Sprintf("a read of build %s with min_index %d shows version %d although version %d is known", id, m, s.Version, other.Out.Build.Version), Calls: []Record{other, r}}, true
		}
		if s.Phase.active() && f.ended.Out.Index > 0 && f.ended.Out.Index <= m {
			return Violation{Invariant: FreshReads, Message: fmt.Sprintf("a read of build %s with min_index %d shows it %s although it had %s at index %d", id, m, s.Phase, f.b.final.verb(), f.ended.Out.Index), Calls: []Record{f.ended, r}}, true
		}
	}
	if r.Op.Linearizable {
		if f.b.last.End > 0 && f.b.last.End < r.Start && s.Phase.active() {
			return Violation{Invariant: LinearizableReads, Message: fmt.Sprintf("a linearizable read shows build %s %s after it had %s", id, s.Phase, f.b.final.verb()), Calls: []Record{f.b.last, r}}, true
		}
		if other, ok := f.before(r.Start); ok && s.Version > 0 && s.Version < other.Out.Build.Version {
			return Violation{Invariant: LinearizableReads, Message: fmt.Sprintf("a linearizable read shows version %d of build %s after a response showed version %d", s.Version, id, other.Out.Build.Version), Calls: []Record{other, r}}, true
		}
	}
	return Violation{}, false
}
