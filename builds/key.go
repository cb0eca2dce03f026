package builds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// WorkspaceRef is the ref of the workspace image made from a base image, bit
// for bit as Gitpod computes it: a changed byte would rebuild every image of
// an install.
func WorkspaceRef(workspaceRepository, baseRef string) string {
	return workspaceRepository + ":" + hexSHA256(baseRef+"\n2\n")
}

// DockerfileKey holds the fields of a git Dockerfile source that make its base
// ref. They are hashed byte for byte as the request gave them.
type DockerfileKey struct {
	RemoteURI, CloneTarget, DockerfilePath, DockerfileVersion, ContextPath string
}

// BaseRef is the ref at which a Dockerfile source publishes its base image, as
// Gitpod computes it.
func (k DockerfileKey) BaseRef(baseRepository string) string {
	var b strings.Builder
	for _, f := range [...][2]string{ // in byte order of the names
		{"CloneTarget", k.CloneTarget},
		{"ContextPath", k.ContextPath},
		{"DockerfilePath", k.DockerfilePath},
		{"DockerfileVersion", k.DockerfileVersion},
		{"RemoteURI", k.RemoteURI},
		{"Source", "git"},
	} {
		fmt.Fprintf(&b, "%s: %s\n", f[0], f[1])
	}
	b.WriteByte('\n')
	return baseRepository + ":" + hexSHA256(b.String())
}

func hexSHA256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
