package history

import (
	"fmt"
	"slices"
)

// stopping is whether the cancellation of a build was accepted.
type stopping int

const (
	notStopping stopping = iota
	maybeStopping
	certainlyStopping
)

// entry is a build in the state. Entries are immutable; a change replaces them.
type entry struct {
	id string
	// over is set if the build must have ended; by is the reason.
	over bool
	by   string
	// waits is set if the build may have been created while an older build ran.
	waits bool
	stop  stopping
	// requesters are the requesters of the build. possible are requesters that may or may not be.
	requesters, possible []string
	// former are requesters that withdrew: a repeated withdrawal gets the same response.
	former []string
}

// state is the state of a ref: its builds in the order of their creation, and requesters that may
// belong to any of them.
type state struct {
	entries  []*entry
	possible []string
}

// equal reports whether two states allow the same steps.
func (s state) equal(o state) bool {
	return slices.Equal(s.possible, o.possible) && slices.EqualFunc(s.entries, o.entries, func(a, b *entry) bool {
		return a == b || a.id == b.id && a.over == b.over && a.stop == b.stop &&
			slices.Equal(a.requesters, b.requesters) && slices.Equal(a.possible, b.possible) && slices.Equal(a.former, b.former)
	})
}

// find returns the index of a build, or -1.
func (s state) find(id string) int {
	return slices.IndexFunc(s.entries, func(e *entry) bool { return e.id == id })
}

// edit returns a state in which a changed copy replaces an entry.
func (s state) edit(i int, change func(*entry)) state {
	e := *s.entries[i]
	change(&e)
	s.entries = slices.Clone(s.entries)
	s.entries[i] = &e
	return s
}

// with returns a sorted set with a member added.
func with(set []string, who string) []string {
	i, found := slices.BinarySearch(set, who)
	if found {
		return set
	}
	return slices.Insert(slices.Clone(set), i, who)
}

// without returns a sorted set with a member removed.
func without(set []string, who string) []string {
	i, found := slices.BinarySearch(set, who)
	if !found {
		return set
	}
	return slices.Delete(slices.Clone(set), i, i+1)
}

// refusal is the reason why a step is impossible; nil means that it is possible.
type refusal struct {
	invariant Invariant
	why       string
}

func refuse(i Invariant, format string, args ...any) *refusal {
	return &refusal{i, fmt.Sprintf(format, args...)}
}

// action is the kind of a step of the model.
type action int

const (
	actionCreate    action = iota // a request creates a build
	actionAttach                  // a request attaches to a build
	actionMayAttach               // a request of unknown outcome
	actionRead                    // a linearizable read
	actionCancel                  // a cancellation with a response
	actionMayCancel               // a cancellation of unknown outcome
	actionEnd                     // a terminal phase was observed
)

// step is one step of the model. It belongs to a call of the history.
type step struct {
	action action
	ref    string
	// build is nil for actionMayAttach.
	build     *build
	requester string
	call      Record
}

// end restricts the state to those in which the build has ended.
func (s state) end(i int, b *build, by string) (state, *refusal) {
	e := s.entries[i]
	switch {
	case e.over:
		return s, nil
	case b.final == Cancelled && e.stop == notStopping:
		return s, refuse(CancelHolds, "build %s ended as cancelled before a client cancelled it", b.id)
	}
	return s.close(i, by), nil
}

// close marks a build as ended. It drops the rest of the entry, which no longer matters, so that
// the search does not distinguish states by it.
func (s state) close(i int, by string) state {
	return s.edit(i, func(e *entry) { *e = entry{id: e.id, over: true, by: by, waits: e.waits} })
}
