package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/image-builder-ha/image-builder/builds"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// logRequest says which part of a build's log a reader wants.
type logRequest struct {
	build   string
	attempt uint32 // 0 for all, one after the other
	offset  int64  // within the first attempt that is streamed
	follow  bool
	resumes bool // the reader comes back, here or elsewhere, where the stream breaks
}

// sendLog takes bytes of an attempt, or a marker line of the service's own,
// which has no offset.
type sendLog func(attempt uint32, offset int64, content []byte, marker bool) error

// streamLogs sends the log of one or all attempts. With follow it returns once
// the build ended and all bytes were sent.
func (s *Service) streamLogs(ctx context.Context, req logRequest, send sendLog) error {
	watch := s.store.Watch(req.build)
	if watch == nil {
		return builds.ErrNotFound
	}
	defer watch.Close()
	first, last := max(req.attempt, 1), req.attempt
	for n := first; last == 0 || n <= last; n++ {
		a, err := s.awaitAttempt(ctx, watch, req, n)
		if err != nil {
			return err
		}
		if a == nil {
			if req.attempt > 0 && !req.follow {
				return fmt.Errorf("attempt %d: %w", n, builds.ErrNotFound)
			}
			return nil
		}
		if n > first {
			if err := send(n, 0, fmt.Appendf(nil, "--- attempt %d ---\n", n), true); err != nil {
				return err
			}
			req.offset = 0
		}
		if err := s.streamAttempt(ctx, watch, req, n, send); err != nil {
			return err
		}
	}
	return nil
}

// awaitAttempt answers attempt n of the watched build, and nil if there is
// none and there will be none.
func (s *Service) awaitAttempt(ctx context.Context, watch *builds.BuildWatch, req logRequest, n uint32) (*imagebuilderv1.Attempt, error) {
	for {
		b := watch.Latest().GetBuild()
		switch {
		case b == nil:
			return nil, builds.ErrResubscribe
		case int(n) <= len(b.GetAttempts()):
			return b.Attempts[n-1], nil
		case builds.Terminal(b.GetPhase()) || !req.follow:
			return nil, nil
		}
		if _, err := watch.Next(ctx); err != nil {
			return nil, err
		}
	}
}

// How long a reader waits for the node that keeps a log, and how often it asks.
const (
	logPatience = 15 * time.Second
	logRetry    = 100 * time.Millisecond
)

// streamAttempt sends the log of one attempt, through all changes of the node
// that keeps it.
func (s *Service) streamAttempt(ctx context.Context, watch *builds.BuildWatch, req logRequest, n uint32, send sendLog) error {
	at := req.offset
	var away time.Time // since when the log cannot be reached
	sure := false      // that the copies that this node knows of are all there are
	for {
		a, err := s.awaitAttempt(ctx, watch, req, n)
		if err != nil {
			return err
		}
		if a == nil {
			return builds.ErrResubscribe
		}
		switch a.GetLog().GetState() {
		case builds.LogLost:
			return send(n, 0, fmt.Appendf(nil, "--- the log of attempt %d was lost with the nodes that kept it ---\n", n), true)
		case builds.LogExpired:
			return send(n, 0, fmt.Appendf(nil, "--- the log of attempt %d was removed by retention ---\n", n), true)
		}
		before := at
		done, err := s.copyLog(ctx, req, n, &at, a.GetLog(), send)
		switch {
		case err == nil && done:
			return nil
		case err == nil: // the owner has not opened the log yet
			away = time.Time{}
			if _, err := watch.Next(ctx); err != nil {
				return err
			}
			continue
		case errors.Is(err, builds.ErrLogDamaged) && !sure:
			// It may have been copied anew, and this node's state be behind.
			sure = s.catchUp(ctx, 0, true) == nil
			err = fmt.Errorf("%w: %w", builds.ErrLogAway, err)
		case !errors.Is(err, builds.ErrLogAway):
			return err
		}
		if away.IsZero() || at > before {
			away = time.Now()
		}
		if time.Since(away) > logPatience {
			if !req.follow || req.resumes {
				return err
			}
			if !builds.Live(a.Phase) {
				return send(n, 0, fmt.Appendf(nil, "--- the rest of the log of attempt %d is on node %s, which does not answer now ---\n", n, a.Owner), true)
			}
		}
		if err := s.awaitChange(ctx, watch, logRetry); err != nil {
			return err
		}
	}
}

// awaitChange waits for the next version of the build, or for a while.
func (s *Service) awaitChange(ctx context.Context, watch *builds.BuildWatch, d time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if _, err := watch.Next(wait); err != nil && wait.Err() == nil {
		return err
	}
	return ctx.Err()
}

// copyLog sends what there is of one log; with follow, to its end. It reports
// whether the attempt is done.
func (s *Service) copyLog(ctx context.Context, req logRequest, n uint32, at *int64, l *imagebuilderv1.AttemptLog, send sendLog) (done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.logs.OpenLog(ctx, req.build, n, *at, req.follow)
	if errors.Is(err, builds.ErrNotFound) && !errors.Is(err, builds.ErrLogAway) {
		if l.GetState() == builds.LogSealed && l.GetLength() > 0 {
			return false, fmt.Errorf("open the log of attempt %d: %w: no node that should have it does", n, builds.ErrLogAway)
		}
		return !req.follow || l.GetState() == builds.LogSealed, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the log of attempt %d: %w", n, err)
	}
	defer stream.Close()
	end := stream.Length()
	for req.follow || *at < end {
		chunk, offset, err := stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, fmt.Errorf("read the log of attempt %d: %w", n, err)
		}
		if err := send(n, offset, chunk, false); err != nil {
			return false, err
		}
		*at = offset + int64(len(chunk))
	}
	return true, nil
}

// BuildLogs streams the log of one attempt or of all.
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
