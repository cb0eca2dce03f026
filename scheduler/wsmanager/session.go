package wsmanager

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// asks is how often ws-manager is asked how a workspace ended when no update
// said it.
const asks = 3

// session is one Run of one workload.
type session struct {
	r    *Runtime
	w    *workload.Workload
	id   string
	sink workload.Sink
	me   *running

	watch  *watch
	before formerImage
	// last is the view on which the session ended.
	last view
}

// run follows the workspace to its end.
func (s *session) run(ctx context.Context) (workload.Outcome, error) {
	s.watch = s.r.feed.watch(s.id)
	defer s.watch.release()
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	p := newPump(s.r, s.watch, s.sink)
	logs := make(chan struct{})
	go func() {
		defer close(logs)
		p.run(work)
	}()
	defer func() {
		cancel()
		<-logs
	}()
	v, err := s.untilEnded(work)
	s.last = v
	if err != nil {
		return workload.Outcome{}, err
	}
	// The end of the log is on its way, or will never come.
	p.end()
	drain := time.NewTimer(s.r.opts.Drain)
	defer drain.Stop()
	select {
	case <-logs:
	case <-drain.C:
	case <-ctx.Done():
		return workload.Outcome{}, ctx.Err()
	}
	cancel()
	<-logs
	p.explain()
	return s.outcome(ctx, v)
}

// untilEnded starts the workspace and returns once nothing more is to be
// learned about it.
func (s *session) untilEnded(ctx context.Context) (view, error) {
	ctx, cancel := context.WithCancel(ctx)
	started := make(chan error, 1)
	go func() { started <- s.start(ctx) }()
	answered := false
	defer func() {
		cancel()
		if !answered {
			<-started
		}
	}()
	var grace <-chan time.Time
	for {
		v, changed := s.watch.look()
		if v.phase != wsman.WorkspacePhase_UNKNOWN {
			s.me.unsure.Store(false)
		}
		if v.started() {
			s.sink.Running()
		}
		switch v.judge() {
		case ended, lost:
			return v, nil
		case ask:
			return s.ask(ctx)
		case stopping:
			if grace == nil {
				t := time.NewTimer(s.r.opts.StopGrace)
				defer t.Stop()
				grace = t.C
			}
		}
		start := started
		if answered {
			start = nil
		}
		select {
		case <-changed:
		case err := <-start:
			answered = true
			if err != nil {
				v, _ := s.watch.look()
				return v, err
			}
		case <-grace:
			return v, nil
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
}

// ask asks ws-manager how a workspace ended that an update without conditions
// called stopped. It waits while ws-manager is down, and gives up once that
// does not know either.
func (s *session) ask(ctx context.Context) (view, error) {
	b := s.r.backoff()
	for n := 0; ; {
		answered := s.watch.describe(ctx)
		v, _ := s.watch.look()
		if v.judge() == ended {
			return v, nil
		}
		if answered {
			if n++; n == asks {
				return v, nil
			}
		}
		if !b.wait(ctx) {
			return v, ctx.Err()
		}
	}
}

// abandon stops a workspace that may still run though its Run has failed, as
// well as that can be done in short time.
func (s *session) abandon(ctx context.Context) {
	if ending(s.last.phase) || s.last.gone || !s.last.seen && !s.me.unsure.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.r.opts.CallTimeout, 5*time.Second))
	defer cancel()
	_, err := s.r.client.StopWorkspace(ctx, &wsman.StopWorkspaceRequest{Id: s.id, Policy: wsman.StopWorkspacePolicy_IMMEDIATELY})
	if err != nil && status.Code(err) != codes.NotFound {
		s.r.opts.Log.Warn("cannot stop the workspace of a build that failed", "build", s.w.BuildID, "attempt", s.w.Attempt, "workspace", s.id, "err", err)
	}
}
