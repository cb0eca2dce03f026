package wsmanager

import (
	"strconv"

	"github.com/google/uuid"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// The annotation by which an image builder finds its workspaces.
const (
	managedBy      = "managed-by"
	managedByValue = "image-builder"
)

// filter matches the workspaces of image builders.
func filter() *wsman.MetadataFilter {
	return &wsman.MetadataFilter{Annotations: map[string]string{managedBy: managedByValue}}
}

// maxAttempts limits the search for the attempt that a workspace id belongs to.
const maxAttempts = 256

// WorkspaceID returns the id of the workspace of one attempt. Gitpod requires a UUID, and expects
// the id of the build. Therefore the first attempt has the id of the build. Attempt n has the
// UUIDv5 of n in decimal, in the name space that is the id of the build. A build id that is not a
// UUID is first replaced by the UUIDv5 of its text in the name space of object identifiers.
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

// idOf returns the id of the workspace for a workload name.
func idOf(name string) (id string, ok bool) {
	build, attempt, ok := workload.ParseName(name)
	if !ok {
		return "", false
	}
	return WorkspaceID(build, attempt), true
}

// nameOf returns the workload name for a workspace, which reports its build in metadata.meta_id. It
// finds the attempt by trying all numbers up to maxAttempts.
func nameOf(id, metaID string) (name string, ok bool) {
	if id == "" || metaID == "" {
		return "", false
	}
	for n := uint32(1); n <= maxAttempts; n++ {
		if WorkspaceID(metaID, n) == id {
			return workload.Name(metaID, n), true
		}
	}
	return "", false
}
