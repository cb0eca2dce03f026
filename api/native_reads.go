package api

import (
	"context"
	"slices"
	"sync"

	"github.com/image-builder-ha/image-builder/builds"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Page sizes of ListBuilds, in builds.
const (
	defaultPage = 100
	maxPage     = 1000
)

// BuildStatus answers one build and can wait for a phase.
func (n Native) BuildStatus(ctx context.Context, req *imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error) {
	if err := n.catchUp(ctx, req.GetMinIndex(), req.GetLinearizable()); err != nil {
		return nil, apiError(err)
	}
	r, err := n.find(ctx, req.GetId(), req.GetRef())
	if err != nil {
		return nil, apiError(err)
	}
	if want := req.GetWaitFor(); want != 0 {
		r, err = n.store.Wait(ctx, r.Build.Id, func(r *buildsv1.Record) bool {
			return r.Build.Phase >= want || builds.Terminal(r.Build.Phase)
		})
		if err != nil {
			return nil, apiError(err)
		}
	}
	info := n.readInfo()
	info.Index = max(info.Index, r.Build.Version) // the state is ahead of what counts its commands for a moment
	return &imagebuilderv1.BuildStatusResponse{Build: n.explained(n.store.View)(r), Read: info}, nil
}

// explained answers what adds to queued builds of a state why they wait. The
// state is asked for once, if there is such a build.
func (s *Service) explained(view func() *builds.State) func(*buildsv1.Record) *imagebuilderv1.Build {
	reason := sync.OnceValue(func() func(*buildsv1.Record) string { return s.waiting(view()) })
	return func(r *buildsv1.Record) *imagebuilderv1.Build {
		if s.waiting == nil || r.Build.Phase != builds.Queued {
			return r.Build
		}
		b := proto.CloneOf(r.Build) // records are shared
		b.WaitingReason = reason()(r)
		return b
	}
}

// ListBuilds pages through builds, newest first.
func (n Native) ListBuilds(ctx context.Context, req *imagebuilderv1.ListBuildsRequest) (*imagebuilderv1.ListBuildsResponse, error) {
	size := int(req.GetPageSize())
	switch {
	case size < 0 || size > maxPage:
		return nil, apiError(invalidf("page_size must be between 0 and %d", maxPage))
	case size == 0:
		size = defaultPage
	}
	if err := n.catchUpList(ctx, req.GetMinIndex(), req.GetLinearizable()); err != nil {
		return nil, apiError(err)
	}
	res := &imagebuilderv1.ListBuildsResponse{Read: n.readInfo()}
	view := n.store.View()
	res.Read.Index = max(res.Read.Index, view.Index())
	explained := n.explained(func() *builds.State { return view })
	view.Descend(req.GetPageToken(), func(r *buildsv1.Record) bool {
		if ctx.Err() != nil {
			return false
		}
		if !matches(req.GetFilter(), r.Build) {
			return true
		}
		if len(res.Builds) == size {
			res.NextPageToken = res.Builds[size-1].Id
			return false
		}
		res.Builds = append(res.Builds, explained(r))
		return true
	})
	return res, apiError(ctx.Err())
}

func matches(f *imagebuilderv1.BuildFilter, b *imagebuilderv1.Build) bool {
	return matchesPhase(f, b) && matchesRest(f, b)
}

func matchesPhase(f *imagebuilderv1.BuildFilter, b *imagebuilderv1.Build) bool {
	return len(f.GetPhases()) == 0 || slices.Contains(f.Phases, b.Phase)
}

// matchesRest looks at what never changes.
func matchesRest(f *imagebuilderv1.BuildFilter, b *imagebuilderv1.Build) bool {
	if f == nil {
		return true
	}
	if (f.Requester != "" && f.Requester != b.Requester) || (f.Ref != "" && f.Ref != b.Ref) {
		return false
	}
	for k, v := range f.Labels {
		if got, ok := b.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// WatchBuilds streams a snapshot of the matching builds, then every change.
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
			if !f.tells(r.Build) {
				continue
			}
			// A stream that breaks within an event repeats it when resumed.
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

// watchFilter is the filter of one watch. A build that leaves its phases is told
// once more, so that nobody keeps it as it was.
type watchFilter struct {
	filter  *imagebuilderv1.BuildFilter
	resumed bool            // it is not known what was told before
	inside  map[string]bool // by id, whether the build was in the phases when it was last looked at
}

func (f *watchFilter) tells(b *imagebuilderv1.Build) bool {
	if !matchesRest(f.filter, b) {
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

func sendView(view *builds.State, f *watchFilter, stream imagebuilderv1.ImageBuilder_WatchBuildsServer) (err error) {
	view.Descend("", func(r *buildsv1.Record) bool {
		if f.tells(r.Build) {
			// Index 0: only the end of the snapshot can be resumed at.
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
