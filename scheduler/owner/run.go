package owner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/tracing"
)

// stopTimeout limits the stop of a workload that outlives its owner. The Reaper of the leader stops
// workloads that are left after it.
const stopTimeout = time.Minute

// run runs the attempt to its end and commits how it ended. The cause of the end of ctx decides
// what happens to the workload.
func (at *attempt) run(ctx context.Context) {
	o := at.owner.opts
	b := at.record.Build
	log := at.logger()
	ctx, span := at.trace(ctx)
	defer span.End()
	secrets, err := o.Keyring.Open(b.Id, at.record.Secrets)
	if err != nil {
		// Not counted: another node may have the key. The bound of uncounted attempts ends the
		// build if no node has it.
		at.finish(ctx, nil, nil, &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Message: err.Error(), Uncounted: true, LogUnknown: true})
		return
	}
	writer, err := o.Logs.Create(builds.LastAttempt(b), b, secrets)
	if err != nil {
		log.Error("cannot open the log of an attempt", "err", err)
		end := &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Message: "open the log: " + err.Error(), LogUnknown: true}
		// After a snapshot was restored, the disk may have a log of this attempt from before, which
		// is complete or has a greater epoch.
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
	sink.stop()
	// A log that returns ErrFenced means that a new owner took over before our state shows it. The
	// workload belongs to the new owner then.
	if errors.Is(err, builds.ErrFenced) || errors.Is(context.Cause(ctx), errFenced) || err != nil && errors.Is(sink.err(), logs.ErrFenced) {
		log.Info("attempt has another owner, stopped it")
		tracing.Set(ctx, tracing.Outcome.String("fenced"))
		at.repairTags(ctx, log)
		return
	}
	if err != nil && at.leavesWorkload(ctx) {
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
			end.Uncounted = end.Uncounted || errors.Is(err, errRegistryAway) || errors.Is(err, workload.ErrCopiesAway)
			end = at.blameDisk(ctx, end, errors.Join(sink.err(), err))
		}
	}
	switch err := at.finish(ctx, writer, sink.steps(), end); {
	case errors.Is(err, builds.ErrFenced):
		at.repairTags(ctx, log)
	case err == nil && remains:
		at.removeRemains(at.tasks, log)
	case err == nil && end.Phase != builds.Succeeded:
		at.inheritTags()
		at.repairTags(ctx, log)
	}
}

// execute runs the workload and publishes its image. It returns the end of an attempt that
// succeeded.
func (at *attempt) execute(ctx context.Context, sink *sink, secrets *buildsv1.Secrets) (*buildsv1.FinishAttempt, error) {
	b := at.record.Build
	a := builds.LastAttempt(b)
	if err := at.confirm(ctx, a.Phase); err != nil {
		return nil, err
	}
	rt := at.runtime()
	if rt == nil {
		return nil, &workload.Failure{Blame: builds.BlameInfrastructure, Message: fmt.Sprintf("node %s has no runtime %q", at.owner.opts.Node, a.Runtime)}
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
	// The log must be complete on all copies before the digest is committed: an owner that finds a
	// committed digest does not follow the workload any more.
	if err := workload.Flush(ctx, sink, workload.CopiesTimeout); err != nil {
		return nil, &workload.Failure{Blame: builds.BlameInfrastructure, Message: "write the log: " + err.Error(), Err: err}
	}
	sink.stop()
	if _, err := at.report(ctx, &buildsv1.ReportPhase{Phase: builds.Pushing, Digest: out.Digest, FormerDigestMissing: missing}); err != nil {
		return nil, err
	}
	if err := at.publish(ctx, out); err != nil {
		return nil, err
	}
	return &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: out.Digest, SizeBytes: out.SizeBytes}, nil
}

// outcome runs the workload, unless a former attempt has committed a digest and the registry still
// has its image. missing means that there is such a digest, and that the registry does not have its
// image.
func (at *attempt) outcome(ctx context.Context, rt workload.Runtime, w *workload.Workload, sink *sink) (out workload.Outcome, missing bool, err error) {
	if former := at.record.Build.Digest; former != "" {
		repo := repository(builds.Targets(at.record.Build)[0])
		found, err := at.exists(ctx, repo+"@"+former)
		if err != nil {
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

// leavesWorkload reports whether the workload continues without this node. The next owner adopts
// it, or the next process of this node.
func (at *attempt) leavesWorkload(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return builds.LastAttempt(at.record.Build).Adoptable && (errors.Is(cause, errShutdown) || errors.Is(cause, errLease))
}

// stopWorkload stops a workload that would outlive its attempt. It first confirms that this node is
// still the owner: otherwise the workload belongs to the next owner.
func (at *attempt) stopWorkload(ctx context.Context, log *slog.Logger) {
	rt := at.runtime()
	if rt == nil || !rt.Survives() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := at.stillOwner(ctx); err != nil {
		log.Info("does not stop the workload of an attempt that may have another owner", "err", err)
		return
	}
	if err := rt.Stop(ctx, at.workloadName()); err != nil {
		log.Warn("cannot stop the workload of an attempt that ends", "err", err)
	}
}

// removeRemains stops the remains of a workload whose end is committed. No owner needs them any
// more. ctx must not be the context of the attempt: the commit of the end may have cancelled it.
func (at *attempt) removeRemains(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := at.runtime().Stop(ctx, at.workloadName()); err != nil {
		log.Warn("cannot remove the remains of a workload", "err", err)
	}
}
