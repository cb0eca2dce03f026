package builds

import buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"

// MaxOverdue limits how many builds one StopOverdue stops.
const MaxOverdue = 256

// stopOverdue stops the builds of the command whose deadline has passed. Result.Refused counts the
// builds of the command that it does not stop: their deadline has not passed, their stop was
// requested before, they have ended or do not exist, or the command names more than MaxOverdue
// builds.
func (tx *change) stopOverdue(c *buildsv1.StopOverdue) Result {
	var res Result
	for i, id := range c.BuildIds {
		if i >= MaxOverdue {
			res.Refused++
			continue
		}
		r := tx.stopBuild(&buildsv1.StopBuild{BuildId: id, Reason: buildsv1.StopReason_STOP_REASON_DEADLINE})
		if r.Err != nil || r.Build.Version != tx.index {
			res.Refused++
		}
	}
	return res
}
