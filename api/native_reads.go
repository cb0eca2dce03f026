package api

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Page sizes of ListBuilds, in builds.
const (
	defaultPage = 100
	maxPage     = 1000
)

// maxListed is how many builds ListBuilds reads for one response, so that a filter which few builds
// match does not read the whole history at once.
const maxListed = 1000

// BuildStatus returns one build. It can wait until the build reaches a phase or ends.
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
	info.Index = max(info.Index, r.Build.Version) // Raft counts a command a moment after the state has applied it
	return &imagebuilderv1.BuildStatusResponse{Build: n.withWaitingReason(n.store.View)(r), Read: info}, nil
}

// withWaitingReason returns a function that adds to a queued build the reason why it waits. The
// function calls view at most once, for the first queued build.
func (s *Service) withWaitingReason(view func() *builds.State) func(*buildsv1.Record) *imagebuilderv1.Build {
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

// ListBuilds returns one page of the matching builds, newest first. The token of the next page is the
// last build that was read.
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
	withReason := n.withWaitingReason(func() *builds.State { return view })
	read, last := 0, ""
	view.Select(selection(req.GetFilter()), req.GetPageToken(), func(r *buildsv1.Record) bool {
		if ctx.Err() != nil {
			return false
		}
		match := matches(req.GetFilter(), r.Build)
		if read == maxListed || match && len(res.Builds) == size {
			res.NextPageToken = last
			return false
		}
		if match {
			res.Builds = append(res.Builds, withReason(r))
		}
		read, last = read+1, r.Build.Id
		return true
	})
	return res, apiError(ctx.Err())
}

// BuildLogs streams the log of one attempt or of all attempts.
func (n Native) BuildLogs(req *imagebuilderv1.BuildLogsRequest, stream imagebuilderv1.ImageBuilder_BuildLogsServer) error {
	if req.GetOffset() < 0 {
		return apiError(invalidf("offset must not be negative"))
	}
	r, err := n.find(stream.Context(), req.GetId(), req.GetRef())
	if err != nil {
		return apiError(err)
	}
	return apiError(n.streamLogs(stream.Context(), logRequest{
		build: r.Build.Id, attempt: req.GetAttempt(), offset: req.GetOffset(), follow: req.GetFollow(), resumes: true,
	}, func(attempt uint32, offset int64, content []byte, marker bool) error {
		return stream.Send(&imagebuilderv1.BuildLogsResponse{
			Attempt: attempt, Offset: offset, Content: content, Marker: marker,
		})
	}))
}

// ListNodes lists the members of the cluster.
func (n Native) ListNodes(ctx context.Context, _ *imagebuilderv1.ListNodesRequest) (*imagebuilderv1.ListNodesResponse, error) {
	if n.nodes == nil {
		return nil, status.Error(codes.Unimplemented, "this service is not a member of a cluster")
	}
	res, err := n.nodes(ctx)
	if err != nil {
		return nil, apiError(err)
	}
	res.Read = n.readInfo()
	return res, nil
}
