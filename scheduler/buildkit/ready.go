package buildkit

import (
	"context"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/moby/buildkit/client"

	"github.com/image-builder-ha/image-builder/builds"
)

// readyInterval is the pause between two checks of a daemon that starts.
const readyInterval = 200 * time.Millisecond

// AwaitReady blocks until a daemon responds. It is for daemons that start together with this
// process. After the limit it returns a *workload.Failure.
func (r *Runtime) AwaitReady(ctx context.Context, limit time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		e, err := r.pool.acquire(wait, "", 1)
		if err == nil {
			r.pool.release(e)
			return nil
		}
		select {
		case <-wait.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &workload.Failure{Blame: builds.BlameInfrastructure, Message: fmt.Sprintf("no BuildKit daemon was ready within %s: %v", limit, err), Err: err}
		case <-tick.C:
		}
	}
}

// Ping returns nil if the daemon at url (unix, or tcp without TLS) responds before ctx ends.
func Ping(ctx context.Context, url string) error {
	c, err := client.New(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // used for the check only
	_, err = c.ListWorkers(ctx)
	return err
}
