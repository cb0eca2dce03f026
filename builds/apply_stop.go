package builds

import (
	"fmt"
	"slices"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// timedLevel is the feature level from which on a deadline, and the age of logs,
// is judged by the time of the command, whatever the clock of the leader said.
const timedLevel = 4

// stopBuild ends a queued build and asks the owner of a live one to stop. A
// build that is over stays as it is: asking again is safe.
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
			if slices.Contains(r.Detached, c.Requester) { // asked again
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
	if c.Reason == buildsv1.StopReason_STOP_REASON_DEADLINE && tx.level >= timedLevel && tx.time < b.Deadline.AsTime().UnixNano() {
		return Result{Build: b, Err: ErrNotDue}
	}
	forced := c.Reason == buildsv1.StopReason_STOP_REASON_DEADLINE || c.Reason == buildsv1.StopReason_STOP_REASON_UNSEALABLE
	if b.Phase == Pushing && !forced {
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
		// Nobody can go on with it, nor stop it: its owner is of another cluster.
		a := LastAttempt(r.Build)
		a.Epoch = MaxEpoch(r.Build) + 1
		a.Log = &imagebuilderv1.AttemptLog{State: LogLost}
		tx.endAttempt(r, a, ending{phase: Failed, blame: BlameInfrastructure, message: c.Message})
		return Result{Build: r.Build}
	}
	r.Build.CancelRequested = c.Reason != buildsv1.StopReason_STOP_REASON_DEADLINE
	tx.put(r)
	return Result{Build: r.Build}
}

// endStopped ends a build that was asked to stop.
func (tx *change) endStopped(r *buildsv1.Record) {
	switch r.StopReason {
	case buildsv1.StopReason_STOP_REASON_DEADLINE:
		tx.end(r, Failed, BlameTimeout, fmt.Sprintf("the build did not end before its deadline (%s)", r.Build.Deadline.AsTime().UTC().Format("2006-01-02 15:04:05Z")))
	case buildsv1.StopReason_STOP_REASON_UNSEALABLE:
		tx.end(r, Failed, BlameInfrastructure, r.StopMessage)
	case buildsv1.StopReason_STOP_REASON_OPERATOR:
		tx.end(r, Cancelled, BlameCancelled, withReason("cancelled by an operator", r.StopMessage))
	default:
		tx.end(r, Cancelled, BlameCancelled, withReason("cancelled by its requester", r.StopMessage))
	}
}

func withReason(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}
