package buildkit

import (
	"context"
	"fmt"
)

// Stop ends the workload of that name. A workload of another process cannot be cancelled from here:
// Stop then waits until the daemons have ended it, which they do when its connection closes.
func (r *Runtime) Stop(ctx context.Context, name string) error {
	r.mu.Lock()
	mine := r.running[name]
	r.mu.Unlock()
	if mine != nil {
		mine.stop(errStopped)
		select {
		case <-mine.done:
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w", name, ctx.Err())
		}
	}
	for _, e := range r.pool.daemons {
		if err := e.awaitGone(ctx, name); err != nil {
			return fmt.Errorf("stop %s on %s: %w", name, e.url, err)
		}
	}
	return nil
}
