package node

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

// foreignInterval is how often a node looks for build workspaces of another image builder.
const foreignInterval = 30 * time.Second

// foreignWorkspaces are the build workspaces at ws-manager that another image builder has started,
// for instance the former image builder of an install. The node reports them and does not change
// them.
type foreignWorkspaces struct {
	gauge prometheus.Gauge

	mu      sync.Mutex
	current map[string]bool // by id
}

func newForeignWorkspaces(reg prometheus.Registerer) *foreignWorkspaces {
	f := &foreignWorkspaces{gauge: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "image_builder_foreign_workspaces", Help: "Build workspaces of another image builder at ws-manager, which are left alone.",
	})}
	reg.MustRegister(f.gauge)
	return f
}

// update sets the present workspaces, and returns those that were not present at the last update.
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

// message returns a line for /ready, or "" if there are no such workspaces.
func (f *foreignWorkspaces) message() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.current) == 0 {
		return ""
	}
	return fmt.Sprintf("%d build workspaces of another image builder run at the workspace manager: they are left alone", len(f.current))
}
