package buildkit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// goneInterval is the pause between two checks of a solve that is ending.
const goneInterval = 10 * time.Millisecond

// solveRef returns a new reference for a solve of the workload on a daemon. It is unique, because a
// daemon keeps references for a while after a solve has ended.
func solveRef(workload string) string { return workload + "." + rand.Text() }

// active returns the names of the workloads that the daemon works on, for all of its clients.
func (e *endpoint) active(ctx context.Context) ([]string, error) {
	stream, err := e.client.ControlClient().ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{ActiveOnly: true, EarlyExit: true})
	if err != nil {
		return nil, err
	}
	var names []string
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		name, _, ours := strings.Cut(event.Record.Ref, ".")
		if ours && event.Type == controlapi.BuildHistoryEventType_STARTED {
			names = append(names, name)
		}
	}
}

// awaitGone blocks until the daemon no longer works on the workload. A daemon that cannot be
// reached counts as one that works on nothing.
func (e *endpoint) awaitGone(ctx context.Context, workload string) error {
	tick := time.NewTicker(goneInterval)
	defer tick.Stop()
	for {
		names, err := e.active(ctx)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the end of the solve: %w", ctx.Err())
		case status.Code(err) == codes.Unavailable:
			return nil
		case err != nil:
			return fmt.Errorf("check whether the solve has ended: %w", err)
		case !slices.Contains(names, workload):
			return nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
