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

// forgetTime bounds how long a solve waits for its traces to be removed.
const forgetTime = 10 * time.Second

// ours are the references of solves of workloads, of any node: see solveRef.
var ours = regexp.MustCompile(`^ib-[^.]+-\d+\.[A-Z2-7]{26}$`)

// forget removes what the daemon remembers of solves that have ended: it keeps
// for days what the steps printed, as they printed it. Solves of other nodes
// go too, since a node that was killed could not remove its own.
func (e *endpoint) forget(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetTime)
	defer cancel()
	refs, err := e.remembered(ctx)
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
	// The daemon fails a removal that another solve was faster with, in words
	// that say nothing of it (a lease that is not found): what counts is
	// whether the record is gone.
	left, err := e.remembered(ctx)
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

// remembered lists our solves that have ended.
func (e *endpoint) remembered(ctx context.Context) (refs []string, err error) {
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
		if ref := event.GetRecord().GetRef(); event.Type == controlapi.BuildHistoryEventType_COMPLETE && ours.MatchString(ref) {
			refs = append(refs, ref)
		}
	}
}
