package builds

import buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"

// MaxOverdue limits how many builds one StopOverdue is about.
const MaxOverdue = 256

// stopOverdue stops builds whose deadline has passed. It counts the others as refused.
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
