package builds

import (
	"strings"

	"github.com/tidwall/btree"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Selection limits a list of builds to a part that the state finds without reading all builds. Empty
// fields limit nothing.
type Selection struct {
	Ref       string
	Requester string // the first one of a build
	Active    bool   // builds that have not ended
}

func (sel Selection) matches(b *imagebuilderv1.Build) bool {
	switch {
	case sel.Ref != "" && b.Ref != sel.Ref:
		return false
	case sel.Requester != "" && b.Requester != sel.Requester:
		return false
	}
	return !sel.Active || !Terminal(b.Phase)
}

// Select is like Descend, but calls f only with builds that match all fields of the selection.
// Below creationOrderLevel it reads all builds.
func (s *State) Select(sel Selection, before string, f func(*buildsv1.Record) bool) {
	matching := func(r *buildsv1.Record) bool { return !sel.matches(r.Build) || f(r) }
	index, prefix := s.byRequester, pairKey(sel.Requester, "")
	switch {
	case s.level < creationOrderLevel || sel == Selection{}:
		s.Descend(before, matching)
		return
	case sel.Ref != "":
		index, prefix = s.createdRef, pairKey(sel.Ref, "")
	case sel.Active:
		index, prefix = s.active, ""
	}
	last := s.Build(before)
	pivot := prefix + "\xff"
	if last != nil {
		pivot = prefix + createdKey(last)
	}
	descendPrefix(index, prefix, pivot, func(id string) bool {
		if id == before || last == nil && before != "" && id > before {
			return true
		}
		return matching(s.Build(id))
	})
}

// descendPrefix calls f with the values whose keys have a prefix and are not after pivot, last key
// first, until f returns false.
func descendPrefix(t *btree.Map[string, string], prefix, pivot string, f func(string) bool) {
	t.Descend(pivot, func(key, v string) bool { return strings.HasPrefix(key, prefix) && f(v) })
}
