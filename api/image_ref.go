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

// WorkspaceRef returns the reference of the workspace image that is made from a base image. It is
// the reference that Gitpod computes. A different result for the same base image would make an
// install rebuild all its images.
func WorkspaceRef(workspaceRepository, baseRef string) string {
	return workspaceRepository + ":" + hexSHA256(baseRef+"\n2\n")
}

// DockerfileKey holds the fields of a Dockerfile in a git repository that determine the reference
// of its base image. They are hashed as the request has them, without normalisation.
type DockerfileKey struct {
	RemoteURI, CloneTarget, DockerfilePath, DockerfileVersion, ContextPath string
}

// BaseRef returns the reference of the base image of a Dockerfile. It is the reference that Gitpod
// computes.
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

// hexSHA256 returns the SHA-256 of a string in hexadecimal.
func hexSHA256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// gitpodShaped reports whether Gitpod's API can express a Dockerfile source. Such a source has the
// same key in both APIs.
func gitpodShaped(d *imagebuilderv1.DockerfileSource) bool {
	return d.GetGit() != nil && len(d.GetBuildArgs()) == 0 && d.GetTarget() == "" && len(d.GetPlatforms()) == 0 &&
		len(d.GetImageLabels()) == 0 && len(d.GetSecretIds()) == 0 && d.GetNetworkMode() == "" &&
		d.GetProvenance() == "" && d.GetSbomGenerator() == ""
}

// dockerfileBaseRef returns the reference of the base image of a Dockerfile source: Gitpod's
// reference if Gitpod's API can express the source, else one with a hash over all fields that can
// change the image.
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
	if d.GetProvenance() != "" || d.GetSbomGenerator() != "" { // so that images without attestations keep their names
		field("attestations", d.GetProvenance(), d.GetSbomGenerator())
	}
	return baseRepository + ":" + hexSHA256(b.String())
}
