package owner

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/tracing"
)

// attempt is an attempt that runs on its owner.
type attempt struct {
	owner  *Owner
	record *buildsv1.Record
	key    attemptKey
	cancel context.CancelCauseFunc
	// tasks ends only when the node shuts down. The context of run also ends for other causes.
	tasks context.Context
	// tagging are the refs that this owner has tagged with digest, or may have tagged.
	tagging []string
	digest  string
}

// finishTimeout is how long the last commits of an attempt may take after the node began to shut
// down.
const finishTimeout = 10 * time.Second

// Causes of the end of an attempt's context.
var (
	errStopRequested = errors.New("the build was asked to stop")
	errFenced        = errors.New("the attempt has another owner")
	errShutdown      = errors.New("the node shuts down")
	errLease         = errors.New("the node heard no leader, or made no progress, for longer than its lease")
)

// logger returns the node's logger with the attributes of the attempt.
func (at *attempt) logger() *slog.Logger {
	log := at.owner.opts.Log.With("build", at.key.build, "attempt", at.key.attempt, "epoch", at.key.epoch)
	if id := tracing.TraceID(at.record.Traceparent); id != "" {
		log = log.With("trace_id", id)
	}
	return log
}

// workloadName returns the name of the attempt's workload.
func (at *attempt) workloadName() string { return workload.Name(at.key.build, at.key.attempt) }

// runtime returns the runtime of the attempt, or nil if this node does not have it.
func (at *attempt) runtime() workload.Runtime {
	return at.owner.opts.Runtimes[builds.LastAttempt(at.record.Build).Runtime]
}

// report commits a phase of the attempt. It returns builds.ErrFenced if the attempt has ended or
// has another owner.
func (at *attempt) report(ctx context.Context, c *buildsv1.ReportPhase) (builds.Result, error) {
	c.BuildId, c.Attempt, c.Epoch = at.key.build, at.key.attempt, at.key.epoch
	return at.owner.commit(ctx, c)
}

// created commits that the workload exists, whether or not it has started to run.
func (at *attempt) created(ctx context.Context) error {
	if !at.owner.opts.Store.View().KeepsWorkloads() {
		return nil
	}
	_, err := at.report(ctx, &buildsv1.ReportPhase{Phase: builds.Starting, WorkloadCreated: true})
	return err
}

// confirm checks that this node is still the owner. It commits the first phase, or, if a former
// owner has done so, uses a read index.
func (at *attempt) confirm(ctx context.Context, phase imagebuilderv1.Phase) error {
	if phase > builds.Starting {
		return at.stillOwner(ctx)
	}
	_, err := at.report(ctx, &buildsv1.ReportPhase{Phase: builds.Starting})
	return err
}

// stillOwner returns builds.ErrFenced if the attempt has ended or has another owner.
func (at *attempt) stillOwner(ctx context.Context) error {
	if err := at.catchUp(ctx); err != nil {
		return err
	}
	r := at.owner.opts.Store.Build(at.key.build)
	if r == nil || lastKey(r.Build) != at.key || !builds.Live(builds.LastAttempt(r.Build).Phase) {
		return builds.ErrFenced
	}
	return nil
}

// catchUp waits until this node's state is as new as the state of the cluster at the time of the
// call. It returns an error only if ctx ends.
func (at *attempt) catchUp(ctx context.Context) error {
	o := at.owner.opts
	for {
		index, err := o.Raft.ReadIndex(ctx)
		if err == nil {
			err = o.Raft.WaitApplied(ctx, index)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			return nil
		}
		ctxutil.Sleep(ctx, retryInterval)
	}
}

// outlasting returns a context for the work after the end of an attempt. It does not end with ctx,
// but finishTimeout after the node began to shut down. The caller calls cancel.
func (at *attempt) outlasting(ctx context.Context) (_ context.Context, cancel func()) {
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(at.tasks, func() { time.AfterFunc(finishTimeout, end) })
	return ctx, func() { stop(); end() }
}

// deadline returns the deadline of the build by this node's clock. It adds the rest of the build's
// time, by the time of the state, to now. The time of the state is recent: the attempt was assigned
// or confirmed a moment ago.
func (at *attempt) deadline() time.Time {
	left := at.record.Build.Deadline.AsTime().Sub(time.Unix(0, at.owner.opts.Store.LastTime()))
	return time.Now().Add(left)
}
