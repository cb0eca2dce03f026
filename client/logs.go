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

// LogsRequest selects a log or a part of it.
type LogsRequest struct {
	// Build is the id of a build, or the ref of an image, which selects its newest build. Required.
	Build string
	// Attempt is the number of the attempt to read; 0 for all attempts, one after the other.
	Attempt uint32
	// Offset is the offset of the first byte in the first attempt that is read.
	Offset int64
	// Follow makes the reader wait for further output until the build has ended.
	Follow bool
}

// Chunk is a part of a log.
type Chunk struct {
	Attempt uint32
	// Offset is the offset of Content in the attempt's log; meaningless for a marker.
	Offset  int64
	Content []byte
	// Marker is set if Content is a line that the service inserted.
	Marker bool
}

// Logs reads the log of a build and passes each byte to f once, in order. It resumes a broken
// stream on another server at the byte where it broke. Logs returns the last error if no byte
// arrives for Options.Patience, unless it follows a build that a server reports as not ended. Logs
// returns an error of f without change.
func (c *Client) Logs(ctx context.Context, req LogsRequest, f func(Chunk) error) error {
	if isRef(req.Build) { // a newer build of the image may begin while Logs reads this one
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

// logs is the state of one call of Logs.
type logs struct {
	c       *Client
	req     LogsRequest
	f       func(Chunk) error
	attempt uint32
	offset  int64
	began   bool            // the line before this attempt was passed to f
	marked  map[string]bool // markers of this attempt that were passed to f
}

// callerError is an error of the caller's function.
type callerError struct{ error }

// readAttempt reads one attempt to its end. It reports whether the attempt exists.
func (r *logs) readAttempt(ctx context.Context) (there bool, err error) {
	r.began = r.attempt == max(r.req.Attempt, 1)
	var broken time.Time // time of the first failure without progress since
	pause := pauseMin
	for {
		progress, err := r.stream(ctx)
		var own callerError
		switch {
		case errors.As(err, &own):
			return true, own.error
		case err == nil || errors.Is(err, errNoAttempt):
			exists, over, lookErr := r.look(ctx, err == nil)
			if over || lookErr != nil {
				return exists, lookErr
			}
			if !exists { // the build has not ended
				broken = time.Now()
			}
		case status.Code(err) != codes.Unavailable || ctx.Err() != nil:
			return false, err
		}
		if progress || broken.IsZero() {
			broken, pause = time.Now(), pauseMin
		}
		if time.Since(broken) > r.c.pool.retryTimeout {
			if !r.active(ctx) {
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

// active reports whether a server says that the followed build has not ended. A stream that was
// silent for long before it broke cannot be distinguished from one that never worked.
func (r *logs) active(ctx context.Context) bool {
	if !r.req.Follow {
		return false
	}
	res, err := r.c.BuildStatus(ctx, statusOf(r.req.Build))
	return err == nil && res.Build.GetEndedAt() == nil
}

// errNoAttempt is the end of a stream whose server does not know the attempt. The server may be
// behind the others.
var errNoAttempt = status.Error(codes.Unavailable, "the server does not know the attempt")

// look decides what the end of a stream means: the stream of an attempt without output ends like the
// stream of an attempt that does not exist, and a server may be behind. sent is true if the server
// has sent the attempt to its end. look reports whether the attempt exists and whether its log is
// over. If it is not, the stream has to be opened again.
func (r *logs) look(ctx context.Context, sent bool) (exists, over bool, err error) {
	res, err := r.c.BuildStatus(ctx, statusOf(r.req.Build))
	if err != nil {
		return false, false, err
	}
	ended := res.Build.GetEndedAt() != nil // then there are no further attempts
	switch exists = int(r.attempt) <= len(res.Build.Attempts); {
	case exists && sent:
		return true, true, r.begin()
	case exists || r.req.Follow && !ended:
		return false, false, nil
	case r.req.Attempt > 0 && !r.req.Follow:
		return false, true, status.Errorf(codes.NotFound, "the build has no attempt %d", r.attempt)
	}
	return false, true, nil
}

// begin passes the line between two attempts to f, once.
func (r *logs) begin() error {
	if r.began {
		return nil
	}
	r.began = true
	return r.f(Chunk{Attempt: r.attempt, Content: fmt.Appendf(nil, "--- attempt %d ---\n", r.attempt), Marker: true})
}

// stream reads until the stream ends or breaks. It reports whether anything new arrived.
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
			return progress, errNoAttempt
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

// show passes the new part of a message to f. It reports whether there is one.
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
		return false, fmt.Errorf("the server omitted bytes %d to %d of the log of attempt %d", r.offset, m.Offset, r.attempt)
	case skip >= int64(len(content)):
		return false, nil
	default:
		content = content[skip:]
	}
	at := r.offset
	r.offset += int64(len(content))
	return true, r.f(Chunk{Attempt: m.Attempt, Offset: at, Content: content})
}

// isRef reports whether a name is an image ref, and not a build id.
func isRef(s string) bool { return strings.ContainsAny(s, ":/@") }

// statusOf returns the request for the status of a build, by id or by ref.
func statusOf(name string) *imagebuilderv1.BuildStatusRequest {
	if isRef(name) {
		return &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Ref{Ref: name}}
	}
	return &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: name}}
}
