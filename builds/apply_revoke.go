package builds

import (
	"errors"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// revokeAttempt ends a live attempt of a build whose stop was requested, without its owner. The
// attempt gets a new epoch, so that the former owner can change neither the state nor the log any
// more. If possible, the log gets a sealer that is not the owner. The leader proposes the command
// after the owner had enough time to end the attempt.
func (tx *change) revokeAttempt(c *buildsv1.RevokeAttempt) Result {
	r, a, err := tx.liveAttempt(c.BuildId, c.Attempt, c.Epoch)
	if err != nil {
		return Result{Err: err}
	}
	if r.StopReason == buildsv1.StopReason_STOP_REASON_UNSPECIFIED {
		return Result{Err: errors.New("the leader cannot end an attempt of a build whose stop was not requested")}
	}
	a.Epoch = MaxEpoch(r.Build) + 1
	a.Log = tx.sealingElsewhere(a)
	tx.endAttempt(r, a, ending{phase: Cancelled, blame: BlameCancelled, message: "the build was stopped; node " + a.Owner + " did not end the attempt in time, so the leader ended it"})
	return Result{Build: r.Build}
}

// stampStop stores the current time in r as the time at which the stop of the build was requested.
// Below RevokeLevel it does nothing. r is a copy of the record, and the caller puts it into the
// state.
func (tx *change) stampStop(r *buildsv1.Record) {
	if tx.level >= RevokeLevel {
		r.StopUnixNano = tx.time
	}
}

// stampStops calls stampStop for the live builds whose stop was requested below RevokeLevel. They
// have no time yet.
func (tx *change) stampStops() {
	var stopping []*buildsv1.Record
	tx.Live(func(r *buildsv1.Record) bool {
		if r.StopReason != buildsv1.StopReason_STOP_REASON_UNSPECIFIED && r.StopUnixNano == 0 {
			stopping = append(stopping, r)
		}
		return true
	})
	for _, r := range stopping {
		r = edit(r)
		tx.stampStop(r)
		tx.put(r)
	}
}
