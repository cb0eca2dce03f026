package api

import (
	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// WatchBuilds streams the matching builds as they are now, then all changes. With an index it
// resumes an earlier watch after that index instead.
func (n Native) WatchBuilds(req *imagebuilderv1.WatchBuildsRequest, stream imagebuilderv1.ImageBuilder_WatchBuildsServer) error {
	ctx := stream.Context()
	f := watchFilter{filter: req.GetFilter(), resumed: req.GetAfterIndex() > 0, inside: map[string]bool{}}
	var sub *builds.Subscription
	if after := req.GetAfterIndex(); after > 0 {
		if err := n.raft.WaitApplied(ctx, after); err != nil {
			return apiError(err)
		}
		var err error
		if sub, err = n.store.SubscribeAfter(after); err != nil {
			return apiError(err)
		}
	} else {
		var view *builds.State
		view, sub = n.store.Subscribe()
		if err := sendView(view, &f, stream); err != nil {
			return err
		}
	}
	for {
		ev, err := sub.Next(ctx)
		if err != nil {
			return apiError(err)
		}
		for i, r := range ev.Changed {
			if !f.sends(r.Build) {
				continue
			}
			// Only the last message of an event has its index. A stream that breaks before it
			// repeats the event when the client resumes.
			index := ev.Index - 1
			if i == len(ev.Changed)-1 && len(ev.Removed) == 0 {
				index = ev.Index
			}
			if err := stream.Send(&imagebuilderv1.WatchBuildsResponse{
				Event: &imagebuilderv1.WatchBuildsResponse_Build{Build: r.Build}, Index: index,
			}); err != nil {
				return err
			}
		}
		for i, id := range ev.Removed {
			delete(f.inside, id)
			index := ev.Index - 1
			if i == len(ev.Removed)-1 {
				index = ev.Index
			}
			if err := stream.Send(&imagebuilderv1.WatchBuildsResponse{
				Event: &imagebuilderv1.WatchBuildsResponse_Removed{Removed: id}, Index: index,
			}); err != nil {
				return err
			}
		}
	}
}

// watchFilter selects the builds that one watch sends. When a build leaves the phases of the
// filter, the watch sends it once more, so that the client does not keep a former phase.
type watchFilter struct {
	filter  *imagebuilderv1.BuildFilter
	resumed bool            // an earlier stream may have sent builds that this one does not know
	inside  map[string]bool // by id: the last seen version was in the phases of the filter
}

// sends reports whether the watch sends a new version of a build.
func (f *watchFilter) sends(b *imagebuilderv1.Build) bool {
	if !matchesFixed(f.filter, b) {
		return false
	}
	if len(f.filter.GetPhases()) == 0 {
		return true
	}
	was, known := f.inside[b.Id]
	is := matchesPhase(f.filter, b)
	if is || f.resumed {
		f.inside[b.Id] = is
	} else {
		delete(f.inside, b.Id)
	}
	return is || was || f.resumed && !known
}

// sendView sends the matching builds of a state, and then the end of the snapshot.
func sendView(view *builds.State, f *watchFilter, stream imagebuilderv1.ImageBuilder_WatchBuildsServer) (err error) {
	view.Descend("", func(r *buildsv1.Record) bool {
		if f.sends(r.Build) {
			// The index is 0, because a client cannot resume within the snapshot.
			err = stream.Send(&imagebuilderv1.WatchBuildsResponse{Event: &imagebuilderv1.WatchBuildsResponse_Build{Build: r.Build}})
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	return stream.Send(&imagebuilderv1.WatchBuildsResponse{
		Event: &imagebuilderv1.WatchBuildsResponse_SnapshotEnd{SnapshotEnd: true}, Index: view.Index(),
	})
}
