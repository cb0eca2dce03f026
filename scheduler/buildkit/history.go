package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
)

// deleteHistoryTimeout bounds how long a solve waits for the removal of its history.
const deleteHistoryTimeout = 10 * time.Second

// solveRefPattern matches references of solves that solveRef has made, on any node.
var solveRefPattern = regexp.MustCompile(`^ib-[^.]+-\d+\.[A-Z2-7]{26}$`)

// deleteHistory removes the daemon's records of solves that have ended. Without this, the daemon
// keeps for days what the steps printed, unredacted. It also removes the records of solves of other
// nodes, because a node that was killed could not remove its own.
func (e *endpoint) deleteHistory(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteHistoryTimeout)
	defer cancel()
	refs, err := e.endedSolves(ctx)
	if err != nil {
		return fmt.Errorf("list the solves that have ended: %w", err)
	}
	failed := map[string]error{}
	for _, ref := range refs {
		if _, err := e.client.ControlClient().UpdateBuildHistory(ctx, &controlapi.UpdateBuildHistoryRequest{Ref: ref, Delete: true}); err != nil {
			failed[ref] = err
		}
	}
	if len(failed) == 0 {
		return nil
	}
	// If two solves remove the same record at once, the daemon returns an obscure error to one of
	// them (a lease that is not found). Therefore only records that still exist count as failures.
	left, err := e.endedSolves(ctx)
	if err != nil {
		return fmt.Errorf("list the solves that have ended: %w", err)
	}
	var errs []error
	for _, ref := range left {
		if err := failed[ref]; err != nil {
			errs = append(errs, fmt.Errorf("remove the history of %s: %w", ref, err))
		}
	}
	return errors.Join(errs...)
}

// endedSolves returns the references of this service's solves that have ended.
func (e *endpoint) endedSolves(ctx context.Context) (refs []string, err error) {
	stream, err := e.client.ControlClient().ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{EarlyExit: true})
	if err != nil {
		return nil, err
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return refs, nil
		}
		if err != nil {
			return nil, err
		}
		if ref := event.GetRecord().GetRef(); event.Type == controlapi.BuildHistoryEventType_COMPLETE && solveRefPattern.MatchString(ref) {
			refs = append(refs, ref)
		}
	}
}
