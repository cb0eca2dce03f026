package wsmanager

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// Workspace is a build workspace of any image builder, including a former one of this install.
type Workspace struct {
	ID string
	// Workload is the name of the workload that the workspace belongs to; empty if it cannot be a
	// workload of this service.
	Workload string
	// Ref is the image that it builds; may be empty.
	Ref string
	// Phase is the name of the phase in ws-manager, such as RUNNING.
	Phase string
	// Started is zero if ws-manager does not report it.
	Started time.Time
}

// Workspaces returns the build workspaces of all image builders of this ws-manager that have not
// stopped, sorted by id.
func (r *Runtime) Workspaces(ctx context.Context) ([]Workspace, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.CallTimeout)
	defer cancel()
	res, err := r.client.GetWorkspaces(ctx, &wsman.GetWorkspacesRequest{MustMatch: filter()})
	if err != nil {
		return nil, fmt.Errorf("list the build workspaces: %w", err)
	}
	followed := r.followed()
	var all []Workspace
	for _, s := range res.GetStatus() {
		if s.GetPhase() == wsman.WorkspacePhase_STOPPED {
			continue
		}
		w := Workspace{ID: s.GetId(), Ref: s.GetMetadata().GetAnnotations()["ref"], Phase: s.GetPhase().String()}
		if t := s.GetMetadata().GetStartedAt(); t.IsValid() {
			w.Started = t.AsTime()
		}
		if name, ok := followed[w.ID]; ok {
			w.Workload = name
		} else if name, ok := nameOf(w.ID, s.GetMetadata().GetMetaId()); ok {
			w.Workload = name
		}
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b Workspace) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// List returns the workload names of all workspaces that image builders of this ws-manager run,
// including those of other nodes. If ws-manager does not report the metadata of a workspace, only
// the node that follows it lists it. The list may include workspaces of another image builder,
// because their ids have the same form.
func (r *Runtime) List(ctx context.Context) ([]string, error) {
	all, err := r.Workspaces(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, w := range all {
		if w.Workload != "" {
			names = append(names, w.Workload)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// followed returns the names of the workloads that this process follows, by workspace id.
func (r *Runtime) followed() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]string, len(r.running))
	for name := range r.running {
		if id, ok := idOf(name); ok {
			out[id] = name
		}
	}
	return out
}
