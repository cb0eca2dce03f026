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

const (
	// logAwayTimeout limits how long a reader waits for a log whose nodes cannot be reached.
	logAwayTimeout = 15 * time.Second
	// logCatchUpTimeout limits how long a reader whose copies are damaged waits for the leader, which
	// may know a new copy.
	logCatchUpTimeout = 5 * time.Second
	// logRetryInterval is the time between two tries to open such a log.
	logRetryInterval = 100 * time.Millisecond
)

// logRequest is a part of the log of a build.
type logRequest struct {
	build   string
	attempt uint32 // 0 for all attempts, one after the other
	offset  int64  // within the first attempt that is streamed, in bytes
	follow  bool   // up to the end of the log, else up to its present length
	resumes bool   // the client can resume a broken stream at an offset, on any node
}

// sendLog sends bytes of the log of an attempt to the client. A marker is a line of the service
// itself and has no offset.
type sendLog func(attempt uint32, offset int64, content []byte, marker bool) error

// streamLogs sends the log of one or all attempts. With follow it returns once the attempt or the
// build has ended and all bytes are sent.
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

// awaitAttempt returns attempt n of a build. With follow it waits for the attempt. It returns nil
// if the build has ended without the attempt or, without follow, does not have it yet.
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

// streamAttempt sends the log of one attempt. If the node that stores the log changes, it continues
// on the new node where it was. If no node can be reached for logAwayTimeout, a client that can
// resume gets the error; a client that cannot gets a marker once the attempt has ended.
func (s *Service) streamAttempt(ctx context.Context, watch *builds.BuildWatch, req logRequest, n uint32, send sendLog) error {
	at := req.offset
	var away time.Time // since then the log cannot be reached
	caughtUp := false  // the local state has caught up since the first damaged copy
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
		if err != nil && (away.IsZero() || at > before) {
			away = time.Now()
		}
		switch {
		case err == nil && done:
			return nil
		case err == nil: // the owner has not opened the log yet
			away = time.Time{}
			if _, err := watch.Next(ctx); err != nil {
				return err
			}
			continue
		case errors.Is(err, builds.ErrLogDamaged) && !caughtUp:
			// There may be a new copy of which the local state does not know yet.
			within, cancel := context.WithTimeout(ctx, logCatchUpTimeout)
			caughtUp = s.catchUp(within, 0, true) == nil
			cancel()
			err = fmt.Errorf("%w: %v", builds.ErrLogAway, err) // without the leader it is not known to be lost
		case !errors.Is(err, builds.ErrLogAway):
			return err
		}
		if time.Since(away) > logAwayTimeout {
			if !req.follow || req.resumes {
				return err
			}
			if !builds.Live(a.Phase) {
				return send(n, 0, fmt.Appendf(nil, "--- the rest of the log of attempt %d is on node %s, which does not answer now ---\n", n, a.Owner), true)
			}
		}
		if err := awaitChange(ctx, watch, logRetryInterval); err != nil {
			return err
		}
	}
}

// awaitChange waits for the next version of a build, at most for d.
func awaitChange(ctx context.Context, watch *builds.BuildWatch, d time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if _, err := watch.Next(wait); err != nil && wait.Err() == nil {
		return err
	}
	return ctx.Err()
}

// copyLog sends the present content of one log or, with follow, the log up to its end. It moves at
// to the end of the bytes that are sent. done is false if the log is not open yet.
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
		if errors.Is(err, builds.ErrNotFound) { // the log was open on that node before
			err = fmt.Errorf("%w: %w", builds.ErrLogAway, err)
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
