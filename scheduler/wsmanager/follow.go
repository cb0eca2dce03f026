package wsmanager

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// maxDescribes is how often ws-manager is queried for how a workspace ended, if no update reported
// it.
const maxDescribes = 3

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
	// The workspace has ended: output that cannot be read now is lost.
	p.end()
	drain := time.NewTimer(s.r.opts.DrainTimeout)
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

// untilEnded starts the workspace, and returns once no more information about it is expected.
func (s *session) untilEnded(ctx context.Context) (view, error) {
	ctx, cancel := context.WithCancel(ctx)
	started := make(chan error, 1)
	go func() { started <- s.start(ctx) }()
	startReturned := false
	defer func() {
		cancel()
		if !startReturned {
			<-started
		}
	}()
	var grace <-chan time.Time
	for {
		v, changed := s.watch.current()
		if v.phase != wsman.WorkspacePhase_UNKNOWN {
			s.me.unsure.Store(false)
		}
		if v.started() {
			s.sink.Running()
		}
		switch v.judge() {
		case ended, lost:
			return v, nil
		case unexplained:
			return s.describeEnd(ctx)
		case stopping:
			if grace == nil {
				t := time.NewTimer(s.r.opts.StopGrace)
				defer t.Stop()
				grace = t.C
			}
		}
		start := started
		if startReturned {
			start = nil
		}
		select {
		case <-changed:
		case err := <-start:
			startReturned = true
			if err != nil {
				v, _ := s.watch.current()
				return v, err
			}
		case <-grace:
			return v, nil
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
}

// describeEnd queries ws-manager for how a workspace ended, after an update without conditions
// reported it as stopped. It waits while ws-manager is down. After maxDescribes responses without
// an explanation it returns the view as it is.
func (s *session) describeEnd(ctx context.Context) (view, error) {
	b := s.r.backoff()
	for n := 0; ; {
		responded := s.watch.describe(ctx)
		v, _ := s.watch.current()
		if v.judge() == ended {
			return v, nil
		}
		if responded {
			if n++; n == maxDescribes {
				return v, nil
			}
		}
		if !b.wait(ctx) {
			return v, ctx.Err()
		}
	}
}

// abandon stops a workspace that may still run although its Run has failed. It tries once, for at
// most five seconds.
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
