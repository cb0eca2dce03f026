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

// Watch passes the current state of all matching builds to f, then every change, until ctx ends or
// f returns an error. It resumes a broken stream on another server. If that server no longer has
// the missed changes, a new snapshot follows: an event with SnapshotBegin, then all builds. A build
// that is not among them does not exist any more.
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
			after = 0 // request a snapshot
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

// Event is one event of a watch. Exactly one field is set.
type Event struct {
	// Build is a build in its current state.
	Build *imagebuilderv1.Build
	// Removed is the id of a build that retention has removed.
	Removed string
	// SnapshotBegin marks the beginning of a snapshot, which replaces all earlier events.
	SnapshotBegin bool
	// SnapshotEnd marks the end of a snapshot.
	SnapshotEnd bool
}

// watch reads one stream of events until it ends or breaks, and updates the index to resume after.
// It reports whether an event arrived.
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
