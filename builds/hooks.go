package builds

import (
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Hooks are called while a command is applied. They must not block. A nil hook is not called.
type Hooks struct {
	// Mine reports whether this process proposed the command. If it is set, Created and Ended must
	// be set too.
	Mine func(index uint64, cmd *clusterv1.Command) bool
	// Created and Ended are called for each build that a command of this process created or ended.
	// So each such event is counted on one node of the cluster.
	Created func(*imagebuilderv1.Build)
	Ended   func(*buildsv1.Record)
	// Published is called on every node for each build that succeeds.
	Published func(*imagebuilderv1.Build)
	// Requested is called on every node for each cached reference whose refresh is requested.
	Requested func(ref string)
}

// call calls the hooks for the changes of one command.
func (h Hooks) call(index uint64, cmd *clusterv1.Command, ev Event) {
	for _, r := range ev.Changed {
		if h.Published != nil && r.EndedIndex == index && r.Build.Phase == Succeeded {
			h.Published(r.Build)
		}
	}
	if h.Requested != nil {
		for _, ref := range ev.Requested {
			h.Requested(ref)
		}
	}
	if h.Mine == nil || len(ev.Changed) == 0 || !h.Mine(index, cmd) {
		return
	}
	for _, r := range ev.Changed {
		if r.CreatedIndex == index {
			h.Created(r.Build)
		}
		if r.EndedIndex == index {
			h.Ended(r)
		}
	}
}
