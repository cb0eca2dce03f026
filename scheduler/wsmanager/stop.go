package wsmanager

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// Stop ends the workspace of the workload of that name, and a Run of it in this process. It returns
// once ws-manager reports the workspace as stopped or does not have it. It retries while ws-manager
// is down.
func (r *Runtime) Stop(ctx context.Context, name string) error {
	id, ok := idOf(name)
	if !ok {
		return fmt.Errorf("stop %s: %w", name, errNotOurs)
	}
	r.mu.Lock()
	mine := r.running[name]
	r.mu.Unlock()
	unsure := false
	if mine != nil {
		mine.stop(errStopped)
		select {
		case <-mine.done:
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w", name, ctx.Err())
		}
		unsure = mine.unsure.Load()
	}
	if err := r.stop(ctx, id, unsure); err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	return nil
}

// stop ends a workspace, unless it has stopped already. unsure means that its start may still
// happen: then it is not enough that ws-manager does not have it at the first query.
func (r *Runtime) stop(ctx context.Context, id string, unsure bool) error {
	w := r.feed.watch(id)
	defer w.release()
	b := r.backoff()
	startedAt := time.Now()
	requested, accepted := false, false
	for {
		_, changed := w.current()
		switch state, err := r.state(ctx, w); {
		case err != nil:
		case state == wsman.WorkspacePhase_STOPPED:
			return nil
		case state == absent:
			if accepted || requested && (!unsure || time.Since(startedAt) >= r.opts.MissingAfter) {
				return nil
			}
		}
		if b.next >= b.max/2 {
			accepted = false // ws-manager may have lost the request
		}
		if !accepted {
			requested = true
			err := r.requestStop(ctx, id)
			code := status.Code(err)
			if err != nil && code != codes.NotFound && code != codes.Internal && code != codes.Unknown && !transient(code) {
				return err
			}
			accepted = err == nil
		}
		if err := b.waitOr(ctx, changed); err != nil {
			return err
		}
	}
}

// absent is the phase of a workspace that ws-manager does not have.
const absent = wsman.WorkspacePhase(-1)

// state queries ws-manager for the phase of a workspace.
func (r *Runtime) state(ctx context.Context, w *watch) (wsman.WorkspacePhase, error) {
	if v, _ := w.current(); v.phase == wsman.WorkspacePhase_STOPPED {
		return v.phase, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.opts.CallTimeout)
	defer cancel()
	res, err := r.client.DescribeWorkspace(ctx, &wsman.DescribeWorkspaceRequest{Id: w.id})
	if status.Code(err) == codes.NotFound {
		return absent, nil
	}
	return res.GetStatus().GetPhase(), err
}

func (r *Runtime) requestStop(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, r.opts.CallTimeout)
	defer cancel()
	_, err := r.client.StopWorkspace(ctx, &wsman.StopWorkspaceRequest{Id: id, Policy: wsman.StopWorkspacePolicy_IMMEDIATELY})
	return err
}
