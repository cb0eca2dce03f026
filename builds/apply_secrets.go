package builds

import (
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// reseal replaces the sealed secrets of a build if they are still those that the proposer saw.
func (tx *change) reseal(c *buildsv1.Reseal) Result {
	r := tx.Build(c.BuildId)
	if r == nil || r.Secrets == nil || !proto.Equal(r.Secrets, c.Former) {
		return Result{}
	}
	r = edit(r)
	r.Secrets = c.Sealed
	tx.put(r)
	return Result{Build: r.Build}
}
