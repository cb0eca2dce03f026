package builds

import (
	"unique"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Selection limits a list of builds to a part that the state finds without reading all builds. Empty
// fields limit nothing.
type Selection struct {
	Ref       string
	Requester string // the first one of a build
	Active    bool   // builds that have not ended
}

// Select is like Descend, but leaves out builds that do not match one field of the selection. f can
// receive builds that do not match the other fields, and all builds below creationOrderLevel. So
// the work between two calls of f is bounded.
func (s *State) Select(sel Selection, before string, f func(*buildsv1.Record) bool) {
	if s.level < creationOrderLevel || sel == (Selection{}) {
		s.Descend(before, f)
		return
	}
	last, visit := s.visitor(before, f)
	if sel.Active && sel.Ref == "" && sel.Requester == "" {
		pivot := "\xff"
		if last != nil {
			pivot = orderKey(last.created) + last.id()
		}
		s.active.Descend(pivot, func(_, id string) bool { return visit(s.builds.entry(id)) })
		return
	}
	index, pivot := s.byRequester, entry{requester: unique.Make(sel.Requester), created: lastIndex}
	selected := func(e *entry) bool { return e.requester == pivot.requester }
	if sel.Ref != "" {
		index, pivot = s.byRef, entry{ref: refHash(sel.Ref), created: lastIndex}
		selected = func(e *entry) bool { return e.ref == pivot.ref }
	}
	if last != nil {
		pivot.created, pivot.uuid, pivot.record = last.created, last.uuid, last.record
	}
	index.Descend(&pivot, func(e *entry) bool { return selected(e) && visit(e) })
}
