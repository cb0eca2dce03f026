package logs

import "context"

// lock is a mutual exclusion lock whose holder may wait for a disk that hangs. It is a channel and
// not a mutex, so that a caller can give up, and so that simulated time advances while a goroutine
// waits for the lock (testing/synctest).
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

// Lock waits until no other caller holds the lock.
func (l lock) Lock() { l <- struct{}{} }

// LockContext is like Lock. It returns the error of ctx, without the lock, if ctx ends before.
func (l lock) LockContext(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	default:
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TryLock takes the lock if nobody holds it, and reports whether it did.
func (l lock) TryLock() bool {
	select {
	case l <- struct{}{}:
		return true
	default:
		return false
	}
}

// Unlock releases the lock.
func (l lock) Unlock() { <-l }
