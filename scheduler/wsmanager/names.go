package wsmanager

import (
	"strconv"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/uuid"
)

// maxAttempts bounds the search for the attempt of a workspace.
const maxAttempts = 256

// WorkspaceID is the id of the workspace of one attempt. Gitpod wants a UUID
// and, for a build, its id; so the first attempt has the id of the build, and
// attempt n the UUIDv5 of n in decimal in the name space that is the build's
// id. (A build id that is no UUID is turned into the UUIDv5 of its text in the
// name space of object identifiers first.)
func WorkspaceID(buildID string, attempt uint32) string {
	if attempt <= 1 {
		return buildID
	}
	space, err := uuid.Parse(buildID)
	if err != nil {
		space = uuid.NewSHA1(uuid.NameSpaceOID, []byte(buildID))
	}
	return uuid.NewSHA1(space, []byte(strconv.FormatUint(uint64(attempt), 10))).String()
}

// idOf answers the id of the workspace of the workload of that name.
func idOf(name string) (id string, ok bool) {
	build, attempt, ok := workload.ParseWorkloadName(name)
	if !ok {
		return "", false
	}
	return WorkspaceID(build, attempt), true
}

// nameOf answers the name of the workload of a workspace. A workspace tells
// the build in metadata.meta_id; which attempt has the id is tried out.
func nameOf(id, metaID string) (name string, ok bool) {
	if id == "" || metaID == "" {
		return "", false
	}
	for n := uint32(1); n <= maxAttempts; n++ {
		if WorkspaceID(metaID, n) == id {
			return workload.WorkloadName(metaID, n), true
		}
	}
	return "", false
}
