package scheduler

import (
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// stopGrace is how long an owner may take to end an attempt after its stop was requested. Then the
// leader ends the attempt, because the disk, the registry or the process of the owner may hang. With
// it, and with the election of a leader, a cancel takes effect within 15 s.
const stopGrace = 8 * time.Second

// unstopped adds a live attempt to revoke if its owner had stopGrace to end it, and otherwise the
// end of that time to wake.
func (d *decision) unstopped(q *buildsv1.Record, now time.Time) {
	if q.StopReason == buildsv1.StopReason_STOP_REASON_UNSPECIFIED || q.StopUnixNano == 0 {
		return // a zero time is below the feature level that introduces the command
	}
	if due := time.Unix(0, q.StopUnixNano).Add(stopGrace); now.Before(due) {
		d.later(due)
		return
	}
	a := builds.LastAttempt(q.Build)
	d.revoke = append(d.revoke, &buildsv1.RevokeAttempt{BuildId: q.Build.Id, Attempt: a.Number, Epoch: a.Epoch})
}
