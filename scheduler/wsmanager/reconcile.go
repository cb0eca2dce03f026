package wsmanager

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// describeAtOnce is how many workspaces are asked for at the same time.
const describeAtOnce = 8

// afterwards is when the reconciler looks once more after it was nudged: the
// server may not have had the new subscription when it was asked first.
const afterwards = 2 * time.Second

// reconcile asks for the status of what is watched, when nudged and from time
// to time, until ctx ends.
func (f *feed) reconcile(ctx context.Context) {
	timer := time.NewTimer(f.opts.ReconcileEvery)
	defer timer.Stop()
	for {
		next := f.opts.ReconcileEvery
		select {
		case <-ctx.Done():
			return
		case <-f.nudges:
			next = min(next, afterwards)
		case <-timer.C:
		}
		// What is missing is looked at more often, to be sure of it in time.
		if f.ask(ctx) {
			next = min(next, max(f.opts.MissingAfter/4, f.opts.MinBackoff))
		}
		timer.Reset(next)
	}
}

// ask asks once and reports whether a workspace is missing.
func (f *feed) ask(ctx context.Context) (missing bool) {
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
			f.take(s, true)
			delete(watches, s.GetId())
		}
	}
	// The list may lack one whose metadata is missing. Absence counts only for
	// those that were asked for by id.
	var g errgroup.Group
	g.SetLimit(describeAtOnce)
	for _, w := range watches {
		g.Go(func() error { w.describe(ctx); return nil })
	}
	_ = g.Wait()
	for _, w := range watches {
		v, _ := w.look()
		missing = missing || !v.missingSince.IsZero()
	}
	return missing
}

// describe asks for one workspace and reports whether ws-manager answered.
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
