package wsmanager

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// Workspace is a build workspace of any image builder, the former one of an
// install included.
type Workspace struct {
	ID string
	// Workload is the name of the workload that it would be of, empty if it
	// cannot be one of ours.
	Workload string
	// Ref is the image that it builds; may be empty.
	Ref string
	// Phase is in the words of ws-manager, such as RUNNING.
	Phase string
	// Started is zero where ws-manager does not tell it.
	Started time.Time
}

// Workspaces answers the build workspaces of all image builders of this
// ws-manager that have not stopped, by id.
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

// List answers the workloads of all workspaces that image builders of this
// ws-manager run, those of other nodes included. A workspace whose metadata
// ws-manager does not tell is listed only by the node that follows it. Those of
// another image builder can be among them: their ids have the same form.
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

// followed answers the workloads that this process follows, by id of their
// workspaces.
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
