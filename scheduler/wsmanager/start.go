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

// internalTries is the maximum number of start requests to which ws-manager responds with an
// internal error.
const internalTries = 5

// start makes sure that the workspace exists. It returns once ws-manager has confirmed this, and
// retries while ws-manager is unavailable.
func (s *session) start(ctx context.Context) error {
	if s.w.Started || s.sink.Offset() > 0 {
		// It existed before this Run and must not be started twice. The reconciler notices if it is
		// gone by now.
		s.found()
		return nil
	}
	req, err := s.r.request(ctx, s.w)
	if err != nil {
		return err
	}
	s.before.record(ctx, s.r.opts.Images, s.w.Ref)
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
			s.before.forget() // its starter may have pushed before the image was recorded
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
		s.r.opts.Log.Debug("cannot start a workspace, will try again", "build", s.w.BuildID, "workspace", s.id, "code", status.Code(err)) // the text of err may quote the request
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

// found records that the workspace exists, and makes the reconciler read its status.
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

// refused returns the failure for a start that ws-manager refused. It shows only the code, because
// the text of err may quote the request, which holds credentials.
func refused(id string, err error) error {
	return &workload.Failure{
		Blame:   builds.BlameInfrastructure,
		Message: fmt.Sprintf("ws-manager refused to start workspace %s (%s): read the log of ws-manager", id, status.Code(err)), Err: err,
	}
}
