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

// goneEvery is the pause between looks at a solve that is ending.
const goneEvery = 10 * time.Millisecond

// solveRef is what a solve of a workload is called on its daemon. A daemon
// keeps references for a while after the end, so each solve gets its own.
func solveRef(workload string) string { return workload + "." + rand.Text() }

// active lists the workloads that a daemon works on, of all its clients.
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

// awaitGone returns once the daemon does not work on the workload any more. A
// daemon that is not there works on nothing.
func (e *endpoint) awaitGone(ctx context.Context, workload string) error {
	tick := time.NewTicker(goneEvery)
	defer tick.Stop()
	for {
		names, err := e.active(ctx)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the end of the solve: %w", ctx.Err())
		case status.Code(err) == codes.Unavailable:
			return nil
		case err != nil:
			return fmt.Errorf("look whether the solve has ended: %w", err)
		case !slices.Contains(names, workload):
			return nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
