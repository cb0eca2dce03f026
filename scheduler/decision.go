package scheduler

import (
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

const (
	// recheckInterval is the time between decisions while builds wait and a node that is not lost
	// accepts none. The node reports only in response to a ping that it accepts builds again.
	recheckInterval = 500 * time.Millisecond
	// maxAssigned, maxOverdue and maxRevoked limit what one decision changes, so that a commit is
	// short and further builds are assigned soon. The next decision continues.
	maxAssigned = 512
	maxOverdue  = builds.MaxOverdue
	maxRevoked  = 64
	// maxStopped limits how many builds are stopped between two decisions below the feature level of
	// StopOverdue.
	maxStopped = 16
)

// decision is a set of changes that the leader commits next.
type decision struct {
	assign []*buildsv1.AssignAttempt_Assignment
	// reassign gives attempts whose owner is lost or about to stop to other nodes.
	reassign []*buildsv1.AssignAttempt_Assignment
	// overdue are the ids of builds past their deadline.
	overdue []string
	// revoke ends attempts that their owners should have stopped.
	revoke []*buildsv1.RevokeAttempt
	// reap means that the history exceeds its limits.
	reap bool
	// wake is the time of the next decision if nothing changes. Zero means that time alone changes
	// no decision.
	wake time.Time
}

// later moves wake forward to t if that is earlier.
func (d *decision) later(t time.Time) {
	if !t.IsZero() && (d.wake.IsZero() || t.Before(d.wake)) {
		d.wake = t
	}
}
