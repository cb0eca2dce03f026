package client

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Watch gives all builds that match to f as they are, then every change, until
// ctx ends or f answers an error. A stream that breaks is resumed on another
// server. Where that server cannot tell what was missed, a new snapshot comes:
// an event with SnapshotBegin is followed by all builds that there are, and
// what is not among them is gone.
func (c *Client) Watch(ctx context.Context, filter *imagebuilderv1.BuildFilter, f func(Event) error) error {
	var after uint64
	pause := pauseMin
	for {
		progress, err := c.watch(ctx, filter, &after, f)
		var own callerError
		switch {
		case errors.As(err, &own):
			return own.error
		case ctx.Err() != nil:
			return ctx.Err()
		case status.Code(err) == codes.OutOfRange:
			after = 0 // a snapshot, please
		case err != nil && status.Code(err) != codes.Unavailable:
			return err
		}
		if progress {
			pause = pauseMin
		}
		if !wait(ctx, pause/2+rand.N(pause)) {
			return ctx.Err()
		}
		pause = min(2*pause, pauseMax)
	}
}

// Event is one event of a watch. One field is set.
type Event struct {
	// Build is a build as it is now.
	Build *imagebuilderv1.Build
	// Removed is the id of a build that retention has removed.
	Removed string
	// SnapshotBegin: forget all that was told before.
	SnapshotBegin bool
	// SnapshotEnd: everything there is was told.
	SnapshotEnd bool
}

func (c *Client) watch(ctx context.Context, filter *imagebuilderv1.BuildFilter, after *uint64, f func(Event) error) (progress bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.WatchBuilds(ctx, &imagebuilderv1.WatchBuildsRequest{Filter: filter, AfterIndex: *after})
	if err != nil {
		return false, err
	}
	fresh := *after == 0
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return progress, nil
		}
		if err != nil {
			return progress, err
		}
		if fresh {
			fresh = false
			if err := f(Event{SnapshotBegin: true}); err != nil {
				return true, callerError{err}
			}
		}
		e := Event{Build: m.GetBuild(), Removed: m.GetRemoved(), SnapshotEnd: m.GetSnapshotEnd()}
		if err := f(e); err != nil {
			return true, callerError{err}
		}
		progress = true
		if m.Index > 0 {
			*after = m.Index
		}
	}
}
