// Package clock is the clock of the leader: it stamps commands with a time that never goes back,
// and it judges the clocks of the nodes. It calls no other node.
package clock

import (
	"sync"
	"time"
)

// maxLag is how far the time of a term may be behind a confirmed clock before it jumps to it.
const maxLag = time.Second

// Clock stamps commands. A term begins at the clock of the machine, or at the greatest applied time
// if that is later. Within the term the time follows the monotonic clock, so that it advances
// whatever the clock of the machine does. It approaches the clock of the machine by running faster
// or slower by 1/maxSlew. It jumps forward for two reasons only: the machine was suspended, or the
// other nodes confirm that it is behind. It never jumps back.
type Clock struct {
	now func() time.Time
	// suspended returns how long the machine has been suspended since its boot. The monotonic
	// clock does not include that time.
	suspended func() time.Duration

	mu     sync.Mutex
	last   int64         // the time at the moment at, in nanoseconds since the Unix epoch
	at     time.Time     // on the monotonic clock
	asleep time.Duration // the part of suspended() that last includes
	view   View
}

// New returns a clock that begins at the clock of the machine, which now returns.
func New(now func() time.Time) *Clock {
	c := &Clock{now: now, suspended: suspended}
	c.Begin(0, View{wall: now().UnixNano()})
	return c
}

// Begin starts a term. applied is the greatest time that was applied before it. Stamps of former
// terms that were not applied do not count: the clock of this machine may have been wrong then.
func (c *Clock) Begin(applied int64, view View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.at, c.asleep, c.view = max(applied, view.earliest()), time.Now(), c.suspended(), view
}

// AtLeast lets the time jump to the greatest applied time, after a snapshot that is ahead of the
// time of the term has replaced the state.
func (c *Clock) AtLeast(applied int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	c.last = max(c.last, applied)
}

// Adjust sets the view of the clocks, and lets the time jump to it if it is confirmed and ahead.
func (c *Clock) Adjust(view View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view = view
	c.advance()
	if view.confirmed && view.earliest()-c.last > int64(maxLag) {
		c.last = view.earliest()
	}
}

// Stamp returns the time of a command that is proposed now.
func (c *Clock) Stamp() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	return c.last
}

// advance raises the time up to now. The caller holds mu.
func (c *Clock) advance() {
	now := time.Now()
	elapsed := now.Sub(c.at)
	c.at = now
	// Less than a second may be an error of the measurement.
	if s := c.suspended() - c.asleep; s >= time.Second {
		elapsed += s
		c.asleep += s
	}
	c.last = c.view.next(c.last, elapsed, c.now().UnixNano())
}
