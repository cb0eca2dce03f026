package peer

import (
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
)

// idleTimeout is how long a copy that the state does not name is kept after the last append to it.
// The state may soon name the copy, or this node's state may be older than that of the owner.
const idleTimeout = time.Minute

// Reap removes the logs of builds that the state has removed, and copies that the state does not
// name. The caller first waits until this node's state is as new as the leader's: a build that the
// state does not have yet must not be mistaken for a removed one.
func (l *Logs) Reap() {
	for _, key := range l.store.Keys() {
		if l.keeps(key) {
			continue
		}
		if err := l.store.Remove(key); err != nil {
			l.opts.Log.Warn("cannot remove a log that is not needed any more", "build", key.Build, "attempt", key.Attempt, "err", err)
		}
	}
}

// keeps reports whether this node still needs its copy of a log.
func (l *Logs) keeps(key logs.Key) bool {
	a := l.attempt(key)
	if a == nil {
		return l.store.Idle(key) < idleTimeout
	}
	switch a.GetLog().GetState() {
	case builds.LogLost, builds.LogExpired:
		return false
	}
	return l.hasCopy(a) || l.store.Idle(key) < idleTimeout
}
