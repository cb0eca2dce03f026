package wsmanager

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// describeAtOnce is the maximum number of concurrent queries for single workspaces.
const describeAtOnce = 8

// recheckAfter is the time between a nudge and a second query: at the first one, the server may not
// have registered the new subscription yet.
const recheckAfter = 2 * time.Second

// reconcile reads the status of the watched workspaces, after a nudge and periodically, until ctx
// ends.
func (f *feed) reconcile(ctx context.Context) {
	timer := time.NewTimer(f.opts.ReconcileInterval)
	defer timer.Stop()
	for {
		next := f.opts.ReconcileInterval
		select {
		case <-ctx.Done():
			return
		case <-f.nudges:
			next = min(next, recheckAfter)
		case <-timer.C:
		}
		// Query missing workspaces more often, so that MissingAfter is observed in time.
		if f.poll(ctx) {
			next = min(next, max(f.opts.MissingAfter/4, f.opts.MinBackoff))
		}
		timer.Reset(next)
	}
}

// poll queries ws-manager once and reports whether a workspace is missing.
func (f *feed) poll(ctx context.Context) (missing bool) {
	watches := f.watched()
	if len(watches) == 0 {
		return false
	}
	call, cancel := context.WithTimeout(ctx, f.opts.CallTimeout)
	res, err := f.client.GetWorkspaces(call, &wsman.GetWorkspacesRequest{MustMatch: filter()})
	cancel()
	if err != nil {
		f.log.Debug("cannot list workspaces", "err", err)
	}
	for _, s := range res.GetStatus() {
		if watches[s.GetId()] != nil {
			f.deliver(s, true)
			delete(watches, s.GetId())
		}
	}
	// The list may lack a workspace whose metadata is missing. Only a query by id proves that a
	// workspace does not exist.
	var g errgroup.Group
	g.SetLimit(describeAtOnce)
	for _, w := range watches {
		g.Go(func() error { w.describe(ctx); return nil })
	}
	_ = g.Wait()
	for _, w := range watches {
		v, _ := w.current()
		missing = missing || !v.missingSince.IsZero()
	}
	return missing
}

// describe queries one workspace and reports whether ws-manager responded.
func (w *watch) describe(ctx context.Context) bool {
	f := w.feed
	ctx, cancel := context.WithTimeout(ctx, f.opts.CallTimeout)
	defer cancel()
	res, err := f.client.DescribeWorkspace(ctx, &wsman.DescribeWorkspaceRequest{Id: w.id})
	switch {
	case status.Code(err) == codes.NotFound:
		w.update(func(v view) view {
			if !v.seen {
				return v // it may not have been started yet
			}
			return v.missing(time.Now(), f.opts.MissingAfter)
		})
	case err != nil:
		f.log.Debug("cannot describe a workspace", "workspace", w.id, "err", err)
		return false
	case res.GetStatus() != nil && (res.GetStatus().GetId() == w.id || res.GetStatus().GetId() == ""):
		w.update(func(v view) view { return v.merge(res.GetStatus(), true) })
	}
	return true
}
