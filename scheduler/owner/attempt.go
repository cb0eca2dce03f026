package owner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// finishTime is how long an attempt that was told to end may take to say so.
const finishTime = 10 * time.Second

// stopTime is how long a workload that outlives its owner may take to stop.
const stopTime = time.Minute

// attempt is one attempt at work on its owner.
type attempt struct {
	owner  *Owner
	record *buildsv1.Record
	key    attemptKey
	cancel context.CancelCauseFunc
	// tasks goes on when the attempt is told to end.
	tasks context.Context
	done  chan struct{}
	// tagging are the refs that were given this digest, or may have been.
	tagging []string
	digest  string
	// refused is when a node was last found not to take a copy of the log. Only
	// keepCopies uses it.
	refused map[logs.Copy]time.Time
}

// run brings the attempt to its end and commits how it ended.
func (at *attempt) run(ctx context.Context) {
	o := at.owner.o
	b := at.record.Build
	log := at.logger()
	ctx, span := at.trace(ctx)
	defer span.End()
	secrets, err := o.Keyring.Open(b.Id, at.record.Secrets)
	if err != nil {
		// Another node may hold the key; alone, this is final soon enough.
		at.finish(ctx, nil, nil, &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Message: err.Error(), Uncounted: true, LogUnknown: true})
		return
	}
	writer, err := o.Logs.Create(builds.LastAttempt(b), b, secrets)
	if err != nil {
		log.Error("cannot open the log of an attempt", "err", err)
		end := &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Message: "open the log: " + err.Error(), LogUnknown: true}
		// Of the time before a snapshot was restored there may be a log of this
		// attempt, complete or under a greater epoch.
		end.Uncounted = errors.Is(err, logs.ErrSealed) || errors.Is(err, logs.ErrFenced)
		at.finish(ctx, nil, nil, at.blameDisk(ctx, end, err))
		return
	}
	defer writer.Close()
	stop := at.keepCopies(ctx, writer.Feed())
	defer stop()
	sink := newSink(writer, func(ctx context.Context, steps []*imagebuilderv1.Step) {
		_, _ = at.report(ctx, &buildsv1.ReportPhase{Phase: builds.Running, Steps: redactSteps(writer, steps)})
	})
	end, err := at.execute(ctx, sink, secrets)
	sink.quiet()
	// The next owner may have reached this node's copy of the log before the
	// state has: then the workload is that owner's already.
	if errors.Is(err, builds.ErrFenced) || errors.Is(context.Cause(ctx), errFenced) || err != nil && errors.Is(sink.err(), logs.ErrFenced) {
		log.Info("attempt has another owner, stopped it")
		tracing.Set(ctx, tracing.Outcome.String("fenced"))
		at.amend(ctx, log)
		return
	}
	if err != nil && at.leaves(ctx) {
		log.Info("leaves a workload that outlives this node", "reason", context.Cause(ctx))
		tracing.Set(ctx, tracing.Outcome.String("left"))
		return
	}
	var f *workload.Failure
	remains := errors.As(err, &f) && f.Remains && ctx.Err() == nil
	if err != nil {
		if !remains {
			at.stopWorkload(ctx, log)
		}
		end = at.failure(ctx, err)
		if end.Phase == builds.Failed && end.Blame == builds.BlameInfrastructure {
			end.Uncounted = end.Uncounted || errors.Is(err, errRegistryAway)
			end = at.blameDisk(ctx, end, errors.Join(sink.err(), err))
		}
	}
	switch err := at.finish(ctx, writer, sink.steps(), end); {
	case errors.Is(err, builds.ErrFenced):
		at.amend(ctx, log)
	case err == nil && remains:
		at.removeRemains(at.tasks, log)
	}
}

// removeRemains stops what is left of a workload whose end is committed: nobody
// owns it any more. The attempt's own context ends with it. What it cannot stop
// in time is left to the Reaper.
func (at *attempt) removeRemains(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	rt := at.owner.o.Runtimes[builds.LastAttempt(at.record.Build).Runtime]
	if err := rt.Stop(ctx, workload.Name(at.key.build, at.key.attempt)); err != nil {
		log.Warn("cannot remove what is left of an attempt", "err", err)
	}
}

// stopWorkload ends a workload that would outlive its attempt, if this node is
// the owner still: else it is the next owner's. What it cannot stop in time is
// left to the Reaper.
func (at *attempt) stopWorkload(ctx context.Context, log *slog.Logger) {
	rt := at.owner.o.Runtimes[builds.LastAttempt(at.record.Build).Runtime]
	if rt == nil || !rt.Survives() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if err := at.stillOwner(ctx); err != nil {
		log.Info("leaves the workload of an attempt that may have another owner", "err", err)
		return
	}
	if err := rt.Stop(ctx, workload.Name(at.key.build, at.key.attempt)); err != nil {
		log.Warn("cannot stop the workload of an attempt that ends", "err", err)
	}
}

// leaves reports whether the workload goes on without this node: under the
// next owner, or under this node's next process.
func (at *attempt) leaves(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return builds.LastAttempt(at.record.Build).Adoptable && (errors.Is(cause, errShutdown) || errors.Is(cause, errLease))
}

// execute runs the workload and publishes what it made.
func (at *attempt) execute(ctx context.Context, sink *sink, secrets *buildsv1.Secrets) (*buildsv1.FinishAttempt, error) {
	o := at.owner.o
	b := at.record.Build
	a := builds.LastAttempt(b)
	if err := at.confirm(ctx, a.Phase); err != nil {
		return nil, err
	}
	rt := o.Runtimes[a.Runtime]
	if rt == nil {
		return nil, &workload.Failure{Blame: builds.BlameInfrastructure, Message: fmt.Sprintf("node %s has no runtime %q", o.Node, a.Runtime)}
	}
	w := &workload.Workload{
		BuildID: b.Id, Attempt: a.Number, Epoch: a.Epoch, Started: a.WorkloadCreated || a.Phase >= builds.Running, Created: at.created, Source: b.Source, Ref: b.Ref, BaseRef: b.BaseRef,
		Rights:   &buildsv1.Rights{AllowAll: at.record.Rights.GetAllowAll(), Hosts: at.record.Rights.GetHosts(), Additional: secrets.Registry},
		Secrets:  secrets,
		Deadline: at.deadline(), LeadersDeadline: b.Deadline.AsTime(), Requester: b.Requester, SupervisorRef: at.record.SupervisorRef,
	}
	out, missing, err := at.outcome(ctx, rt, w, sink)
	if err != nil {
		return nil, err
	}
	// Before the digest: who finds that does not follow the workload any more.
	if err := sink.Flush(ctx); err != nil {
		return nil, &workload.Failure{Blame: builds.BlameInfrastructure, Message: "write the log: " + err.Error(), Err: err}
	}
	sink.quiet()
	if _, err := at.report(ctx, &buildsv1.ReportPhase{Phase: builds.Pushing, Digest: out.Digest, FormerDigestMissing: missing}); err != nil {
		return nil, err
	}
	if err := at.publish(ctx, out); err != nil {
		return nil, err
	}
	return &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: out.Digest, SizeBytes: out.SizeBytes}, nil
}

// deadline is the build's by this node's clock: what is left of its time, by the
// time that the state has come to. That is the leader's of a moment ago, as this
// attempt has just been given to the node or confirmed.
func (at *attempt) deadline() time.Time {
	left := at.record.Build.Deadline.AsTime().Sub(time.Unix(0, at.owner.o.Store.LastTime()))
	return time.Now().Add(left)
}

// confirm makes sure that this node is the owner still: by the commit of the
// first phase or, where a former owner did that, by a read index.
func (at *attempt) confirm(ctx context.Context, phase imagebuilderv1.Phase) error {
	if phase > builds.Starting {
		return at.stillOwner(ctx)
	}
	_, err := at.report(ctx, &buildsv1.ReportPhase{Phase: builds.Starting})
	return err
}

// outcome runs the workload, unless a former attempt committed a digest that
// the registry still has. missing reports that it was looked for in vain.
func (at *attempt) outcome(ctx context.Context, rt workload.Runtime, w *workload.Workload, sink *sink) (out workload.Outcome, missing bool, err error) {
	if former := at.record.Build.Digest; former != "" {
		repo := repository(targets(at.record.Build)[0])
		var found bool
		if err := at.patiently(ctx, func(ctx context.Context) (err error) {
			found, err = at.owner.o.Publisher.Exists(ctx, repo+"@"+former)
			return err
		}); err != nil {
			return workload.Outcome{}, false, &workload.Failure{Blame: builds.BlameInfrastructure, Message: "look for the image of the former attempt: " + err.Error(), Err: err}
		}
		if found {
			return workload.Outcome{Repository: repo, Digest: former}, false, nil
		}
		missing = true
	}
	out, err = runTraced(ctx, rt, w, sink)
	return out, missing, err
}

// report commits a phase of the attempt. ErrFenced says that it is over.
func (at *attempt) report(ctx context.Context, c *buildsv1.ReportPhase) (builds.Result, error) {
	c.BuildId, c.Attempt, c.Epoch = at.key.build, at.key.attempt, at.key.epoch
	return at.owner.commit(ctx, c)
}

// created commits that the workload exists, whether or not it was seen to run
// before.
func (at *attempt) created(ctx context.Context) error {
	if !at.owner.o.Store.View().KeepsWorkloads() {
		return nil
	}
	_, err := at.report(ctx, &buildsv1.ReportPhase{Phase: builds.Starting, WorkloadCreated: true})
	return err
}

// failure words the end of an attempt that did not succeed.
func (at *attempt) failure(ctx context.Context, err error) *buildsv1.FinishAttempt {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errStopRequested) || errors.Is(err, builds.ErrStopping):
		return &buildsv1.FinishAttempt{Phase: builds.Cancelled, Message: "stopped on request"}
	case errors.Is(cause, errShutdown):
		return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Uncounted: true, Message: fmt.Sprintf("node %s shut down while the attempt ran", at.owner.o.Node)}
	}
	if errors.Is(context.Cause(ctx), errLease) {
		return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Uncounted: true, Message: fmt.Sprintf("node %s heard no leader for longer than its lease, and stopped the attempt", at.owner.o.Node)}
	}
	var f *workload.Failure
	if errors.As(err, &f) {
		return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: f.Blame, Message: f.Message}
	}
	return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Message: err.Error()}
}

// fullPause is how long an attempt whose log found the disk full is kept until it
// is given back: by then the leader has asked this node how it is, and gives
// the next attempt to another one.
const fullPause = 2 * time.Second

// blameDisk makes the end of an attempt whose log could not be written for want
// of space the node's: it does not count, the next attempt begins elsewhere.
func (at *attempt) blameDisk(ctx context.Context, end *buildsv1.FinishAttempt, err error) *buildsv1.FinishAttempt {
	if errors.Is(err, logs.ErrNoSpace) && !end.Uncounted {
		ctxutil.Sleep(ctx, fullPause)
		end.Uncounted = true
		end.Message = fmt.Sprintf("node %s cannot write logs: %s", at.owner.o.Node, end.Message)
	}
	return end
}

// finish seals the log and commits how the attempt ended. It outlasts the
// attempt's context: an end must be said also by those who were told to stop.
func (at *attempt) finish(ctx context.Context, w logs.AttemptWriter, steps []*imagebuilderv1.Step, c *buildsv1.FinishAttempt) error {
	// The leader may be away for long: an end that is not said would leave the
	// build running for ever. Only a node that stops has no time, and the next
	// start of its process says it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(at.tasks, func() { time.AfterFunc(finishTime, cancel) })()
	c.BuildId, c.Attempt, c.Epoch = at.key.build, at.key.attempt, at.key.epoch
	log := at.logger()
	if w != nil {
		c.Message, c.Steps = w.Redact(c.Message), redactSteps(w, steps)
		if c.Phase != builds.Succeeded && c.Message != "" {
			_ = w.Marker("attempt failed: " + c.Message)
		}
		var err error
		if c.LogLength, c.LogChecksum, err = seal(ctx, w); err != nil {
			log.Error("cannot complete the log of an attempt", "err", err)
			if c.Phase == builds.Succeeded {
				c.Phase, c.Blame, c.Message = builds.Failed, builds.BlameInfrastructure, "complete the log: "+err.Error()
				c = at.blameDisk(ctx, c, err)
			}
		}
	}
	c.Message = valid(c.Message)
	traceEnd(ctx, c)
	if _, err := at.owner.commit(ctx, c); err != nil {
		log.Warn("cannot commit the end of an attempt", "err", err)
		return err
	}
	log.Info("attempt ended", "phase", c.Phase.String(), "blame", c.Blame.String(), "message", c.Message)
	return nil
}

// redactSteps takes secrets out of what is committed about steps.
func redactSteps(w logs.AttemptWriter, steps []*imagebuilderv1.Step) []*imagebuilderv1.Step {
	out := make([]*imagebuilderv1.Step, len(steps))
	for i, s := range steps {
		c := proto.CloneOf(s)
		c.Name, c.Error = valid(w.Redact(c.Name)), valid(w.Redact(c.Error))
		out[i] = c
	}
	return out
}

// valid makes a text one that a command can carry: what it cannot is never
// committed, however often that is tried.
func valid(text string) string { return strings.ToValidUTF8(text, "?") }
