package wsmanager

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Name is the name of the runtime in the replicated state.
const Name = "wsmanager"

// Runtime builds in Gitpod workspaces. Methods may be called concurrently.
type Runtime struct {
	opts   Options
	conn   *grpc.ClientConn
	client wsman.WorkspaceManagerClient
	feed   *feed
	http   *http.Client
	reach  *reachability

	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex
	running map[string]*running
}

// running is a call of Run that has not returned.
type running struct {
	stop context.CancelCauseFunc
	done chan struct{}
	// unsure reports that a start was requested and its result is not known yet.
	unsure atomic.Bool
}

var _ workload.Runtime = (*Runtime)(nil)

var (
	// errStopped is the cause of a context that Stop ended.
	errStopped = errors.New("the workload was stopped")
	// errReplaced is the cause of a context that a later Run of the same workload ended.
	errReplaced  = errors.New("the workload is followed anew")
	errDeadline  = errors.New("deadline of the build")
	errNotOurs   = errors.New("not a name of a workload")
	errNoLogYet  = errors.New("the build workspace has no terminal yet")
	errLogAccess = errors.New("ws-manager did not report the address of the build workspace or its token")
)

// New returns a runtime for a ws-manager and subscribes to its updates. It succeeds while
// ws-manager is down, but fails if the certificate files are wrong. The caller closes the runtime.
func New(o Options) (*Runtime, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	at := &reachability{}
	conn, err := dial(o, append([]grpc.DialOption{grpc.WithUnaryInterceptor(at.unary)}, o.Dial...)...)
	if err != nil {
		return nil, err
	}
	r := &Runtime{opts: o, conn: conn, client: wsman.NewWorkspaceManagerClient(conn), http: supervisorClient(o.HTTP), reach: at, running: map[string]*running{}}
	r.feed = newFeed(r.client, &r.opts, at)
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	r.tasks.Go(func() { r.feed.subscribe(ctx) })
	r.tasks.Go(func() { r.feed.reconcile(ctx) })
	return r, nil
}

// Close ends the subscription and closes the connections. All calls of Run must have returned.
// Workspaces continue.
func (r *Runtime) Close() error {
	r.cancel()
	r.tasks.Wait()
	r.http.CloseIdleConnections()
	return r.conn.Close()
}

// Name returns the name of the runtime in the replicated state.
func (r *Runtime) Name() string { return Name }

// Survives returns true: workspaces outlive the node that started them.
func (r *Runtime) Survives() bool { return true }

// Run starts or adopts the workspace of the workload and follows it to its end. While ws-manager is
// down, Run retries until ctx ends. The workspace tags the images that it pushes, and the outcome
// is the image that the registry then has. When ctx ends, the workspace continues. When the
// deadline of the workload passes, Run stops the workspace. Run first ends an earlier Run of the
// same workload and waits for it.
func (r *Runtime) Run(ctx context.Context, w *workload.Workload, sink workload.Sink) (workload.Outcome, error) {
	outer := ctx
	if !w.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, w.Deadline, errDeadline)
		defer cancel()
	}
	ctx, me, err := r.enter(ctx, w.Name())
	if err != nil {
		return workload.Outcome{}, err
	}
	defer r.leave(w.Name(), me)
	s := &session{r: r, w: w, id: WorkspaceID(w.BuildID, w.Attempt), sink: sink, me: me}
	out, err := s.run(ctx)
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, builds.ErrFenced): // the workspace belongs to the next owner
		return workload.Outcome{}, err
	case ctx.Err() == nil:
		s.abandon(outer)
		return workload.Outcome{}, err
	case errors.Is(context.Cause(ctx), errDeadline):
		s.abandon(outer)
		return workload.Outcome{}, failureDeadline(w)
	case errors.Is(context.Cause(ctx), errStopped), errors.Is(context.Cause(ctx), errReplaced):
		return workload.Outcome{}, context.Cause(ctx)
	}
	return workload.Outcome{}, ctx.Err()
}

// enter ends an earlier Run of the same workload, waits for it, and registers this one.
func (r *Runtime) enter(ctx context.Context, name string) (context.Context, *running, error) {
	ctx, stop := context.WithCancelCause(ctx)
	me := &running{stop: stop, done: make(chan struct{})}
	for {
		r.mu.Lock()
		former := r.running[name]
		if former == nil {
			r.running[name] = me
		}
		r.mu.Unlock()
		if former == nil {
			return ctx, me, nil
		}
		former.stop(errReplaced)
		select {
		case <-former.done:
		case <-ctx.Done():
			stop(nil)
			return nil, nil, fmt.Errorf("wait for a former run of %s: %w", name, ctx.Err())
		}
	}
}

// leave removes the registration of a Run and wakes a Run that waits for it.
func (r *Runtime) leave(name string, me *running) {
	r.mu.Lock()
	delete(r.running, name)
	r.mu.Unlock()
	me.stop(nil)
	close(me.done)
}
