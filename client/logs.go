package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// LogsRequest says what to read.
type LogsRequest struct {
	// Build is the id of a build, or the ref of an image, whose newest build is
	// meant.
	Build string
	// Attempt is the only attempt to read; 0 for all, one after the other.
	Attempt uint32
	// Offset is where to begin in the first attempt, in bytes.
	Offset int64
	// Follow reads on until the build has ended.
	Follow bool
}

// Chunk is a part of a log.
type Chunk struct {
	Attempt uint32
	// Offset is where Content begins in the attempt's log; of a marker it means
	// nothing.
	Offset  int64
	Content []byte
	// Marker: a line of the service's own.
	Marker bool
}

// Logs reads the log of a build and gives each byte to f once, in order. A
// stream that breaks is resumed on another server at the byte where it broke.
// It gives up when streams break for the client's patience without a byte, but
// not while it follows a build that goes on and a server tells so. An error of f
// ends it.
func (c *Client) Logs(ctx context.Context, req LogsRequest, f func(Chunk) error) error {
	if isRef(req.Build) { // a newer build of the image may begin while this one's log is read
		res, err := c.BuildStatus(ctx, statusOf(req.Build))
		if err != nil {
			return err
		}
		req.Build = res.Build.Id
	}
	r := &logs{c: c, req: req, f: f, offset: req.Offset, attempt: max(req.Attempt, 1)}
	for {
		there, err := r.readAttempt(ctx)
		if err != nil || !there || req.Attempt > 0 {
			return err
		}
		r.attempt++
		r.offset, r.marked = 0, nil
	}
}

// logs is one reader at work.
type logs struct {
	c       *Client
	req     LogsRequest
	f       func(Chunk) error
	attempt uint32
	offset  int64
	began   bool // the line before this attempt was shown
	marked  map[string]bool
}

type callerError struct{ error }

// readAttempt reads one attempt to its end. It reports whether there is one.
func (r *logs) readAttempt(ctx context.Context) (there bool, err error) {
	r.began = r.attempt == max(r.req.Attempt, 1)
	var broken time.Time // since when streams break
	pause := pauseMin
	for {
		progress, err := r.stream(ctx)
		var own callerError
		switch {
		case errors.As(err, &own):
			return true, own.error
		case err == nil:
			return r.exists(ctx)
		case status.Code(err) != codes.Unavailable || ctx.Err() != nil:
			return false, err
		}
		if progress || broken.IsZero() {
			broken, pause = time.Now(), pauseMin
		}
		if time.Since(broken) > r.c.pool.patience {
			if !r.goesOn(ctx) {
				return false, err
			}
			broken = time.Now()
		}
		if !wait(ctx, pause/2+rand.N(pause)) {
			return false, err
		}
		pause = min(2*pause, pauseMax)
	}
}

// goesOn reports whether the build that is followed has not ended: a stream
// that was quiet for long before it broke looks like one that never worked.
func (r *logs) goesOn(ctx context.Context) bool {
	if !r.req.Follow {
		return false
	}
	res, err := r.c.BuildStatus(ctx, statusOf(r.req.Build))
	return err == nil && res.Build.GetEndedAt() == nil
}

// exists reports whether the attempt is there: one that said nothing ends like
// one that never was.
func (r *logs) exists(ctx context.Context) (bool, error) {
	res, err := r.c.BuildStatus(ctx, statusOf(r.req.Build))
	if err != nil {
		return false, err
	}
	if int(r.attempt) > len(res.Build.Attempts) {
		if r.req.Attempt > 0 && !r.req.Follow {
			return false, status.Errorf(codes.NotFound, "the build has no attempt %d", r.attempt)
		}
		return false, nil
	}
	return true, r.begin()
}

// begin shows the line between two attempts, once.
func (r *logs) begin() error {
	if r.began {
		return nil
	}
	r.began = true
	return r.f(Chunk{Attempt: r.attempt, Content: fmt.Appendf(nil, "--- attempt %d ---\n", r.attempt), Marker: true})
}

// stream reads until the stream ends or breaks. It reports whether anything
// came that was not shown before.
func (r *logs) stream(ctx context.Context) (progress bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := r.c.BuildLogs(ctx, &imagebuilderv1.BuildLogsRequest{
		Build: &imagebuilderv1.BuildLogsRequest_Id{Id: r.req.Build}, Attempt: r.attempt, Offset: r.offset, Follow: r.req.Follow,
	})
	if err != nil {
		return false, err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return progress, nil
		}
		if status.Code(err) == codes.NotFound && r.attempt > max(r.req.Attempt, 1) {
			return progress, nil // there is no further attempt
		}
		if err != nil {
			return progress, err
		}
		if err := r.begin(); err != nil {
			return progress, callerError{err}
		}
		shown, err := r.show(m)
		if err != nil {
			return progress, callerError{err}
		}
		progress = progress || shown
	}
}

// show gives on what was not shown before.
func (r *logs) show(m *imagebuilderv1.BuildLogsResponse) (bool, error) {
	if m.Marker {
		text := string(m.Content)
		if r.marked[text] {
			return false, nil
		}
		if r.marked == nil {
			r.marked = map[string]bool{}
		}
		r.marked[text] = true
		return true, r.f(Chunk{Attempt: m.Attempt, Content: m.Content, Marker: true})
	}
	content := m.Content
	switch skip := r.offset - m.Offset; {
	case skip < 0:
		return false, fmt.Errorf("the server left out bytes %d to %d of the log of attempt %d", r.offset, m.Offset, r.attempt)
	case skip >= int64(len(content)):
		return false, nil
	default:
		content = content[skip:]
	}
	at := r.offset
	r.offset += int64(len(content))
	return true, r.f(Chunk{Attempt: m.Attempt, Offset: at, Content: content})
}

// isRef tells an image ref from a build id.
func isRef(s string) bool { return strings.ContainsAny(s, ":/@") }

func statusOf(name string) *imagebuilderv1.BuildStatusRequest {
	if isRef(name) {
		return &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Ref{Ref: name}}
	}
	return &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: name}}
}
