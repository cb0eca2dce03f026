package wsmanager

import (
	"context"
	"fmt"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// internalTries is how often a start is asked for that ws-manager answers with
// a defect of its own.
const internalTries = 5

// start makes sure that the workspace exists. It returns once ws-manager has
// said so, and retries while that cannot be asked.
func (s *session) start(ctx context.Context) error {
	if s.w.Started || s.sink.Offset() > 0 {
		// It has run before this Run, and must not run twice: if it is gone by
		// now the reconciler will find out.
		s.found()
		return nil
	}
	req, err := s.r.request(ctx, s.w)
	if err != nil {
		return err
	}
	s.before.look(ctx, s.r.opts.Images, s.w.Ref)
	b := s.r.backoff()
	for internal := 0; ; {
		s.me.unsure.Store(true)
		res, err := s.call(ctx, req)
		switch code := status.Code(err); {
		case err == nil:
			s.watch.update(func(v view) view {
				v.seen = true
				if res.GetUrl() != "" && res.GetOwnerToken() != "" {
					v.url, v.token = res.GetUrl(), res.GetOwnerToken()
				}
				return v
			})
			return s.created(ctx)
		case code == codes.AlreadyExists:
			s.before.forget() // whoever started it may have pushed before we looked
			s.found()
			return s.created(ctx)
		case ctx.Err() != nil:
			return ctx.Err()
		case code == codes.Internal || code == codes.Unknown:
			if internal++; internal == internalTries {
				return refused(s.id, err)
			}
		case !transient(code):
			s.me.unsure.Store(false)
			return refused(s.id, err)
		}
		s.r.opts.Log.Debug("cannot start a workspace, will try again", "build", s.w.BuildID, "workspace", s.id, "code", status.Code(err)) // its text may quote the request
		if !b.wait(ctx) {
			return ctx.Err()
		}
	}
}

// created commits that the workspace exists.
func (s *session) created(ctx context.Context) error {
	if s.w.Created == nil {
		return nil
	}
	return s.w.Created(ctx)
}

func (s *session) call(ctx context.Context, req *wsman.StartWorkspaceRequest) (*wsman.StartWorkspaceResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.r.opts.CallTimeout)
	defer cancel()
	return s.r.client.StartWorkspace(ctx, req)
}

// found notes that the workspace is said to exist and has its status asked
// for.
func (s *session) found() {
	s.watch.update(func(v view) view { v.seen = true; return v })
	s.r.feed.nudge()
}

// transient reports whether the same call may succeed later.
func transient(c codes.Code) bool {
	switch c {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.Canceled, codes.ResourceExhausted:
		return true
	}
	return false
}

// refused words why ws-manager did not start a workspace. Its text may quote
// the request, which holds credentials; only the code is shown.
func refused(id string, err error) error {
	return &workload.Failure{
		Blame:   builds.BlameInfrastructure,
		Message: fmt.Sprintf("ws-manager refused to start workspace %s (%s): its log tells why", id, status.Code(err)), Err: err,
	}
}
