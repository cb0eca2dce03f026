package peer

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// localTimeout is how long a reader waits for the disk of this node before it looks for another copy.
const localTimeout = 5 * time.Second

// Complete makes this node's copy of a log complete at the given length.
func (l *Logs) Complete(key logs.Key, length int64) error { return l.store.Complete(key, length) }

// completeWithin is Complete for readers. It returns the error of ctx if the disk does not respond
// until ctx ends. All readers of a log wait for the same call of Complete, which then continues.
func (l *Logs) completeWithin(ctx context.Context, key logs.Key, length int64) error {
	all := &l.completions
	all.mu.Lock()
	c := all.running[key]
	all.mu.Unlock()
	if c == nil {
		select {
		case all.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		c = l.complete(key, length)
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// complete returns the call of Complete for a log. It starts the call if there is none, and releases
// the slot of the caller at its end.
func (l *Logs) complete(key logs.Key, length int64) *completion {
	all := &l.completions
	all.mu.Lock()
	defer all.mu.Unlock()
	if c := all.running[key]; c != nil {
		<-all.slots
		return c
	}
	c := &completion{done: make(chan struct{})}
	all.running[key] = c
	all.tasks.Go(func() {
		c.err = l.store.Complete(key, length)
		all.mu.Lock()
		delete(all.running, key)
		all.mu.Unlock()
		<-all.slots
		close(c.done)
	})
	return c
}
