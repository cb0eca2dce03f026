package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

var _ workload.Runtime = (*Runtime)(nil)

// New returns a runtime and starts the watch of the install's pods. It does not wait for the API.
// The caller closes the runtime.
func New(o Options) (*Runtime, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	m := newMetrics()
	pods, err := startWatch(ctx, o.Client, o.Namespace, o.Install, o.ours, func(err error) {
		m.watchErrors.Inc()
		o.Log.Warn("cannot watch the build pods, will try again", "namespace", o.Namespace, "err", err)
	})
	if err != nil {
		stop()
		return nil, fmt.Errorf("kubernetes: watch pods: %w", err)
	}
	r := &Runtime{opts: o, pods: pods, metrics: m, stop: stop}
	if err := m.register(o.Registerer, pods); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close ends the watch. All calls of Run must have returned. Pods continue to run.
func (r *Runtime) Close() error {
	r.stop()
	r.pods.close()
	return nil
}

// Name returns the name of the runtime in the replicated state.
func (r *Runtime) Name() string { return Name }

// Survives returns true: pods outlive the node that created them.
func (r *Runtime) Survives() bool { return true }

// Trouble returns the health problem of the runtime, or nil if there is none. There is one if,
// within the last 45 seconds, the API did not respond to this node or refused its requests.
// Meanwhile builds wait.
func (r *Runtime) Trouble() error {
	t := &r.pods.health
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil || r.pods.informer.HasSynced() && time.Since(t.failedAt) > watchErrorTTL {
		return nil
	}
	return fmt.Errorf("the Kubernetes API does not show the build pods in namespace %s: %w: builds in pods wait: check the API and the rights of this service's account", r.opts.Namespace, t.err)
}
