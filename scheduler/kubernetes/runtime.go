package kubernetes

import (
	"context"
	"time"
)

// Name is the name of the runtime in the replicated state.
const Name = "kubernetes"

// pollInterval is the time between two reads from the API, in case the watch has missed a change.
const pollInterval = 10 * time.Second

// Runtime runs every attempt in a pod. Methods may be called concurrently. Only Stop deletes pods:
// the runtime does not know which results of an ended pod are committed.
type Runtime struct {
	opts    Options
	pods    *podWatch
	metrics *metrics
	stop    context.CancelFunc
}

// maxPause limits the pause between two retries.
const maxPause = 10 * time.Second

// pause waits before retry number n+1. The pauses double up to maxPause.
func (r *Runtime) pause(ctx context.Context, n int) error {
	d := min(r.opts.retryBase<<min(n, 10), maxPause)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
