package wsmanager

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

var _ workload.Runtime = (*Runtime)(nil)

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

// Trouble returns an error while ws-manager is unavailable, and nil otherwise. Builds wait for it
// meanwhile.
func (r *Runtime) Trouble() error {
	if r.reach.unavailable.Load() {
		return fmt.Errorf("the workspace manager at %s does not answer: builds that need it wait", r.opts.Address)
	}
	return nil
}
