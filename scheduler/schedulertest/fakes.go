package schedulertest

import (
	"context"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Raft is the replicated log of a World. It applies proposals at once.
type Raft struct {
	// Mu is held while a proposal is applied. A test holds it to apply commands concurrently.
	Mu sync.Mutex
	W  *World
}

var _ builds.Raft = (*Raft)(nil)

// Propose implements builds.Raft.
func (r *Raft) Propose(_ context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	cmd.TimeUnixNano = r.W.Now.UnixNano()
	r.W.Index++
	return r.W.Index, r.W.Store.Apply(r.W.Index, cmd), nil
}

// ReadIndex implements builds.Raft.
func (r *Raft) ReadIndex(context.Context) (uint64, error) { return 0, nil }

// WaitApplied implements builds.Raft.
func (r *Raft) WaitApplied(context.Context, uint64) error { return nil }

// Freshness implements builds.Raft.
func (r *Raft) Freshness() (uint64, bool, time.Duration) { return 0, true, 0 }

// Runtime is a runtime whose workloads succeed at once. Tests embed it and replace methods.
type Runtime struct{}

var _ workload.Runtime = Runtime{}

// Name implements workload.Runtime.
func (Runtime) Name() string { return "copy" }

// Survives implements workload.Runtime.
func (Runtime) Survives() bool { return false }

// Stop implements workload.Runtime.
func (Runtime) Stop(context.Context, string) error { return nil }

// List implements workload.Runtime.
func (Runtime) List(context.Context) ([]string, error) { return nil, nil }

// Run implements workload.Runtime.
func (Runtime) Run(context.Context, *workload.Workload, workload.Sink) (workload.Outcome, error) {
	return workload.Outcome{Repository: "r", Digest: "sha256:first"}, nil
}
