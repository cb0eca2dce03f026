package cluster

import "time"

// NewTermStore returns a termStore.
var NewTermStore = newTermStore

// Greatest returns the greatest term in the store.
func (s *termStore) Greatest() uint64 { return s.greatest.Load() }

// GreatestTerm returns the greatest term in which the node has begun an election, voted or followed.
func (n *Node) GreatestTerm() uint64 { return n.terms.greatest.Load() }

// SetWriteStart makes the log look as if a write had been in progress since t, or as if there were
// none if t is zero.
func (n *Node) SetWriteStart(t time.Time) {
	if t.IsZero() {
		n.logs.writeStart.Store(0)
	} else {
		n.logs.writeStart.Store(t.UnixNano())
	}
}
