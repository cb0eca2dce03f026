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

// unstopped adds live attempts to revoke whose owner had stopGrace to end them, and otherwise the
// next end of that time to wake. Below the feature level of the command a stop has no time.
func (d *decision) unstopped(s *builds.State, now time.Time) {
	s.Stopping(func(q *buildsv1.Record) bool {
		if due := time.Unix(0, q.StopUnixNano).Add(stopGrace); now.Before(due) {
			d.later(due)
			return false
		}
		a := builds.LastAttempt(q.Build)
		d.revoke = append(d.revoke, &buildsv1.RevokeAttempt{BuildId: q.Build.Id, Attempt: a.Number, Epoch: a.Epoch})
		return len(d.revoke) < maxRevoked
	})
}
