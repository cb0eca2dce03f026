package node

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
