package builds

import (
	"errors"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// revokeAttempt ends a live attempt of a build whose stop was requested, without its owner. The log
// gets a new epoch and, where possible, a sealer that is not the owner, so that the former owner can
// change nothing more. The leader decides when the owner had enough time.
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
	tx.endAttempt(r, a, ending{phase: Cancelled, blame: BlameCancelled, message: "stopped on request; node " + a.Owner + " did not end the attempt in time, so the leader ended it"})
	return Result{Build: r.Build}
}

// stampStop records the time at which the stop of a build was requested. r is a copy that the
// caller may change.
func (tx *change) stampStop(r *buildsv1.Record) {
	if tx.level >= RevokeLevel {
		r.StopUnixNano = tx.time
	}
}

// stampStops records the current time for live builds whose stop was requested before RevokeLevel.
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
