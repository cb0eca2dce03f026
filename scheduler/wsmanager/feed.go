package wsmanager

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// feed is the one subscription of this process. It merges updates into the views of the watched
// workspaces. Slow watchers do not block it, because they read the view when they have time.
type feed struct {
	client wsman.WorkspaceManagerClient
	opts   *Options
	log    *slog.Logger
	reach  *reachability

	mu      sync.Mutex
	watches map[string]*watch

	// nudges wakes the reconciler; capacity 1.
	nudges chan struct{}
}

// watch is the view of one workspace, shared by all of its watchers.
type watch struct {
	feed *feed
	id   string
	// Guarded by feed.mu.
	view view
	refs int
	// changed is closed and replaced when the view changes.
	changed chan struct{}
}

func newFeed(client wsman.WorkspaceManagerClient, o *Options, at *reachability) *feed {
	return &feed{client: client, opts: o, log: o.Log, reach: at, watches: map[string]*watch{}, nudges: make(chan struct{}, 1)}
}

// watch returns the watch of a workspace. The caller releases it.
func (f *feed) watch(id string) *watch {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.watches[id]
	if w == nil {
		w = &watch{feed: f, id: id, changed: make(chan struct{})}
		f.watches[id] = w
	}
	w.refs++
	return w
}

func (w *watch) release() {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	if w.refs--; w.refs == 0 {
		delete(w.feed.watches, w.id)
	}
}

// current returns the view, and a channel that is closed at its next change.
func (w *watch) current() (view, <-chan struct{}) {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	return w.view, w.changed
}

// update changes the view and wakes its watchers.
func (w *watch) update(change func(view) view) {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	next := change(w.view)
	if next == w.view {
		return
	}
	w.view = next
	close(w.changed)
	w.changed = make(chan struct{})
}

// deliver merges a status into the view of its workspace, if it is watched.
func (f *feed) deliver(s *wsman.WorkspaceStatus, authoritative bool) {
	f.mu.Lock()
	w := f.watches[s.GetId()]
	f.mu.Unlock()
	if w != nil {
		w.update(func(v view) view { return v.merge(s, authoritative) })
	}
}

// watched returns the watches of all watched workspaces, by id.
func (f *feed) watched() map[string]*watch {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[string]*watch, len(f.watches))
	for id, w := range f.watches {
		out[id] = w
	}
	return out
}

// nudge makes the reconciler read the status soon. It does not block.
func (f *feed) nudge() {
	select {
	case f.nudges <- struct{}{}:
	default:
	}
}

// subscribe keeps a subscription open until ctx ends.
func (f *feed) subscribe(ctx context.Context) {
	b := &backoff{min: f.opts.MinBackoff, max: f.opts.MaxBackoff}
	down := false
	for ctx.Err() == nil {
		startedAt := time.Now()
		received, err := f.stream(ctx)
		if ctx.Err() != nil {
			return
		}
		f.reach.record(err)
		if received || time.Since(startedAt) > f.opts.MaxBackoff {
			b.reset()
			down = false
		}
		if !down {
			f.log.Warn("lost the subscription to ws-manager, will subscribe again", "address", f.opts.Address, "code", status.Code(err).String(), "err", err)
			down = true
		}
		if !b.wait(ctx) {
			return
		}
	}
}

// stream receives updates until the subscription ends. received reports whether there was one.
func (f *feed) stream(ctx context.Context) (received bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := f.client.Subscribe(ctx, &wsman.SubscribeRequest{MustMatch: filter()})
	if err != nil {
		return false, err
	}
	// Updates between the former subscription and this one are lost.
	f.nudge()
	stands := time.AfterFunc(steadyAfter, func() { f.reach.record(nil) })
	defer stands.Stop()
	for {
		res, err := stream.Recv()
		if err != nil {
			return received, err
		}
		received = true
		f.reach.record(nil)
		if s := res.GetStatus(); s != nil {
			f.deliver(s, false)
		}
	}
}
