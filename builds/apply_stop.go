package builds

import (
	"slices"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// stopBuild ends a queued build. For a build with a live attempt it records the stop, and the owner
// then ends the attempt. If a requester stops the build and others remain, stopBuild only detaches
// that requester. A build that has ended does not change, so a repeated command is safe.
func (tx *change) stopBuild(c *buildsv1.StopBuild) Result {
	r := tx.Build(c.BuildId)
	if r == nil {
		return Result{Err: ErrNotFound}
	}
	b := r.Build
	if Terminal(b.Phase) {
		return Result{Build: b}
	}
	if c.Reason == buildsv1.StopReason_STOP_REASON_REQUESTER {
		i := slices.Index(b.Requesters, c.Requester)
		if i < 0 {
			if slices.Contains(r.Detached, c.Requester) { // a repeated command
				return Result{Build: b, Detached: true}
			}
			if r.StopReason != buildsv1.StopReason_STOP_REASON_UNSPECIFIED {
				return Result{Build: b}
			}
			return Result{Build: b, Err: ErrNotRequester}
		}
		if len(b.Requesters) > 1 {
			r = edit(r)
			r.Build.Requesters = slices.Delete(r.Build.Requesters, i, i+1)
			r.Detached = append(r.Detached, c.Requester)
			tx.put(r)
			return Result{Build: r.Build, Detached: true}
		}
	}
	if c.Reason == buildsv1.StopReason_STOP_REASON_DEADLINE && !tx.due(r) {
		return Result{Build: b, Err: ErrNotDue}
	}
	forced := c.Reason == buildsv1.StopReason_STOP_REASON_DEADLINE || c.Reason == buildsv1.StopReason_STOP_REASON_UNSEALABLE
	// A former attempt may have tagged the image of a committed digest.
	tagged := tx.level >= publishedLevel && b.Digest != "" && r.StopReason == buildsv1.StopReason_STOP_REASON_UNSPECIFIED
	if (b.Phase == Pushing || tagged) && !forced {
		return Result{Build: b, Err: ErrTooLate}
	}
	if r.StopReason != buildsv1.StopReason_STOP_REASON_UNSPECIFIED {
		return Result{Build: b}
	}
	r = edit(r)
	r.StopReason = c.Reason
	r.StopMessage = c.Message
	if c.Reason == buildsv1.StopReason_STOP_REASON_REQUESTER {
		r.Build.Requesters = nil
	}
	if b.Phase == Queued {
		tx.endStopped(r)
		return Result{Build: r.Build}
	}
	if c.Reason == buildsv1.StopReason_STOP_REASON_UNSEALABLE {
		// The owner belongs to another cluster, so no node can continue or stop the attempt.
		a := LastAttempt(r.Build)
		a.Epoch = MaxEpoch(r.Build) + 1
		a.Log = &imagebuilderv1.AttemptLog{State: LogLost}
		tx.endAttempt(r, a, ending{phase: Failed, blame: BlameInfrastructure, message: c.Message})
		return Result{Build: r.Build}
	}
	tx.stampStop(r)
	r.Build.CancelRequested = c.Reason != buildsv1.StopReason_STOP_REASON_DEADLINE
	tx.put(r)
	return Result{Build: r.Build}
}

// due reports whether the deadline of a build has passed. Below commandTimeLevel the leader decides.
func (tx *change) due(r *buildsv1.Record) bool {
	return tx.deadlineRuns(r) && (tx.level < commandTimeLevel || tx.time >= r.Build.Deadline.AsTime().UnixNano())
}
