package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

// foreignEvery is how often ws-manager is asked for build workspaces that are
// not ours.
const foreignInterval = 30 * time.Second

// foreign are the build workspaces that another image builder has started, as
// the former one of an install has when this one takes its place. They are left
// alone and reported.
type foreignWorkspaces struct {
	gauge prometheus.Gauge

	mu  sync.Mutex
	current map[string]bool // by id
}

func newForeignWorkspaces(reg prometheus.Registerer) *foreignWorkspaces {
	f := &foreignWorkspaces{gauge: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "image_builder_foreign_workspaces", Help: "Build workspaces of another image builder at ws-manager, which are left alone.",
	})}
	reg.MustRegister(f.gauge)
	return f
}

// see takes up what there is now, and answers what was not there before.
func (f *foreignWorkspaces) update(all []wsmanager.Workspace) (fresh []wsmanager.Workspace) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := map[string]bool{}
	for _, w := range all {
		now[w.ID] = true
		if !f.current[w.ID] {
			fresh = append(fresh, w)
		}
	}
	f.current = now
	f.gauge.Set(float64(len(now)))
	return fresh
}

// note is a line for /ready while there are some, else empty.
func (f *foreignWorkspaces) message() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.current) == 0 {
		return ""
	}
	return fmt.Sprintf("%d build workspaces of another image builder run at the workspace manager: they are left alone", len(f.current))
}

// watchForeign looks for foreign workspaces until ctx ends.
func (n *Node) watchForeign(ctx context.Context) error {
	ws, ok := n.runtimes[wsmanager.Name].(*wsmanager.Runtime)
	if !ok {
		return nil
	}
	for first := true; first || ctxutil.Sleep(ctx, foreignInterval); first = false {
		all, err := n.listForeign(ctx, ws)
		for err != nil && ctxutil.Sleep(ctx, time.Second) { // ws-manager or the leader is away
			all, err = n.listForeign(ctx, ws)
		}
		if err != nil {
			return nil // ctx has ended
		}
		for _, w := range n.foreign.update(all) {
			n.log.Warn("a build workspace of another image builder runs: it is left alone",
				"workspace", w.ID, "phase", w.Phase, "image", w.Ref, "started", w.Started)
		}
	}
	return nil
}

// foreignWorkspaces answers those whose build the state does not know. They
// are listed before the state is read: a build is committed before its
// workspace is started.
func (n *Node) listForeign(ctx context.Context, ws *wsmanager.Runtime) (out []wsmanager.Workspace, err error) {
	all, err := ws.Workspaces(ctx)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	index, err := n.raft.ReadIndex(ctx)
	if err == nil {
		err = n.raft.WaitApplied(ctx, index)
	}
	if err != nil {
		return nil, err
	}
	n.store.Read(func(st *builds.State) {
		for _, w := range all {
			if id, _, ok := workload.ParseWorkloadName(w.Workload); !ok || st.Build(id) == nil {
				out = append(out, w)
			}
		}
	})
	return out, nil
}
