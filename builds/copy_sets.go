package builds

import (
	"slices"
	"strings"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// CopySets calls f with each set of copies that open, sealing or sealed logs have, and with the
// number of these logs, until f returns false. like is an attempt with such a log. It has no other
// fields than those that placement reads.
func (s *State) CopySets(f func(like *imagebuilderv1.Attempt, n int) bool) {
	s.copySets.Scan(func(_ string, set copySet) bool { return f(set.like, set.n) })
}

// recount moves the logs of a build from the copy sets of its former attempts to those of its
// attempts.
func (s *State) recount(was, is []*imagebuilderv1.Attempt) {
	for i := range max(len(was), len(is)) {
		var a, b *imagebuilderv1.Attempt
		if i < len(was) {
			a = was[i]
		}
		if i < len(is) {
			b = is[i]
		}
		if a != nil && b != nil && sameHolders(a, b) {
			continue
		}
		s.countSet(a, -1)
		s.countSet(b, 1)
	}
}

// sameHolders reports whether the logs of two versions of an attempt are in the same copy set. It
// may report false for equal sets.
func sameHolders(a, b *imagebuilderv1.Attempt) bool {
	l, m := a.Log, b.Log
	return l.GetState() == m.GetState() && l.GetReplicas() == m.GetReplicas() && len(l.GetCopies()) > 0 && slices.Equal(l.Copies, m.GetCopies())
}

// countSet adds by to the number of logs in the set of an attempt. a may be nil.
func (s *State) countSet(a *imagebuilderv1.Attempt, by int) {
	l := a.GetLog()
	switch l.GetState() {
	case LogOpen, LogSealing, LogSealed:
	default:
		return
	}
	var key strings.Builder
	key.WriteByte(byte(l.State))
	key.WriteString(orderKey(uint64(l.Replicas)))
	for _, c := range CopiesOf(a) {
		key.WriteString(c.Node + "\x00" + c.StoreId + "\x00")
	}
	if len(l.Copies) == 0 {
		key.WriteByte(1)
	}
	set, _ := s.copySets.Get(key.String())
	set.n += by
	if set.n <= 0 {
		s.copySets.Delete(key.String())
		return
	}
	if set.like == nil {
		set.like = &imagebuilderv1.Attempt{Log: &imagebuilderv1.AttemptLog{State: l.State, Replicas: l.Replicas, Copies: l.Copies}}
		if len(l.Copies) == 0 {
			set.like.Owner, set.like.OwnerStoreId = a.Owner, a.OwnerStoreId
		}
	}
	s.copySets.Set(key.String(), set)
}
