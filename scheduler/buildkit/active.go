package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// goneEvery is the pause between looks at a solve that is ending.
const goneEvery = 10 * time.Millisecond

// active lists the references of the solves that a daemon works on, of all its
// clients; only ref if that is not empty.
func (e *endpoint) active(ctx context.Context, ref string) ([]string, error) {
	stream, err := e.client.ControlClient().ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{ActiveOnly: true, EarlyExit: true, Ref: ref})
	if err != nil {
		return nil, err
	}
	var refs []string
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return refs, nil
		}
		if err != nil {
			return nil, err
		}
		if event.Type == controlapi.BuildHistoryEventType_STARTED {
			refs = append(refs, event.Record.Ref)
		}
	}
}

// awaitGone returns once the daemon does not work on the solve any more. A
// daemon that is not there works on nothing.
func (e *endpoint) awaitGone(ctx context.Context, ref string) error {
	tick := time.NewTicker(goneEvery)
	defer tick.Stop()
	for {
		refs, err := e.active(ctx, ref)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the end of the solve: %w", ctx.Err())
		case status.Code(err) == codes.Unavailable:
			return nil
		case err != nil:
			return fmt.Errorf("look whether the solve has ended: %w", err)
		case len(refs) == 0:
			return nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
