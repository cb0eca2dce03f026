package api

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
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

// gitpodShaped reports whether a Dockerfile source says no more than Gitpod's
// API can: then both APIs share its key.
func gitpodShaped(d *imagebuilderv1.DockerfileSource) bool {
	return d.GetGit() != nil && len(d.GetBuildArgs()) == 0 && d.GetTarget() == "" && len(d.GetPlatforms()) == 0 &&
		len(d.GetImageLabels()) == 0 && len(d.GetSecretIds()) == 0 && d.GetNetworkMode() == "" &&
		d.GetProvenance() == "" && d.GetSbomGenerator() == ""
}

// dockerfileBaseRef is where a Dockerfile source publishes its base image: by
// Gitpod's rule where the source is Gitpod-shaped, else by a hash over
// everything that can change the image.
func dockerfileBaseRef(baseRepository string, d *imagebuilderv1.DockerfileSource) string {
	if gitpodShaped(d) {
		return DockerfileKey{
			RemoteURI:         d.GetGit().GetRemoteUri(),
			CloneTarget:       d.GetGit().GetCloneTarget(),
			DockerfilePath:    d.GetDockerfilePath(),
			DockerfileVersion: d.GetDockerfileVersion(),
			ContextPath:       d.GetContextPath(),
		}.BaseRef(baseRepository)
	}
	var b strings.Builder
	field := func(name string, values ...string) {
		fmt.Fprintf(&b, "%s %q\n", name, values)
	}
	pairs := func(name string, m map[string]string) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			field(name, k, m[k])
		}
	}
	field("native", "1")
	field("git", d.GetGit().GetRemoteUri(), d.GetGit().GetCloneTarget(), d.GetGit().GetTargetMode().String())
	field("upload", d.GetUpload().GetDigest())
	for _, f := range d.GetDownload().GetFiles() {
		field("download", f.GetUrl(), f.GetPath(), f.GetDigest())
	}
	field("dockerfile", d.GetDockerfilePath(), d.GetContextPath(), d.GetDockerfileVersion(), d.GetTarget(), d.GetNetworkMode())
	field("platforms", d.GetPlatforms()...)
	field("secrets", slices.Sorted(slices.Values(d.GetSecretIds()))...)
	pairs("arg", d.GetBuildArgs())
	pairs("label", d.GetImageLabels())
	if d.GetProvenance() != "" || d.GetSbomGenerator() != "" { // images without keep their names
		field("attestations", d.GetProvenance(), d.GetSbomGenerator())
	}
	return baseRepository + ":" + hexSHA256(b.String())
}
