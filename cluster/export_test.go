package cluster

import "time"

// SetWriteStart makes the log look as if a write had been in progress since t, or as if there were
// none if t is zero.
func (n *Node) SetWriteStart(t time.Time) {
	if t.IsZero() {
		n.logs.writeStart.Store(nil)
	} else {
		n.logs.writeStart.Store(&t)
	}
}
