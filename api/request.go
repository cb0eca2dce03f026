package api

import (
	"time"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// buildRequest is a validated request of either API for an image.
type buildRequest struct {
	source    *imagebuilderv1.Source
	rights    *buildsv1.Rights // without credentials, which are in secrets
	secrets   *buildsv1.Secrets
	requester string
	requestID string
	// generatedID reports that the service generated the request id.
	generatedID bool
	labels      map[string]string
	timeout     time.Duration
	force       bool
	// fresh demands that the request does not join a build that has already begun.
	fresh bool
	// oneTimeURL is a URL that returns the git credential once.
	oneTimeURL  string
	oneTimeUsed bool // the URL was used, and secrets contain the credential
	// supervisorRef is the supervisor image of Gitpod workspaces.
	supervisorRef string
	// baseResolved is a reference that, as the client states, names the base image that an earlier
	// build has published. The service checks whether it exists.
	baseResolved string
}

// plan is a request resolved against the registry.
type plan struct {
	source       *imagebuilderv1.Source
	ref, baseRef string
	// digest is set if the image exists.
	digest string
	// checkedIndex is the index of the local state at the moment before the registry was queried.
	checkedIndex uint64
}

// buildResult is the outcome of a request: a build, or an image that exists.
type buildResult struct {
	build    *imagebuilderv1.Build
	attached bool  // the build existed before
	existing *plan // set if the image exists; build is then nil
}

// fullRights returns the rights of a request together with its registry credentials.
func (r *buildRequest) fullRights() *buildsv1.Rights {
	return &buildsv1.Rights{AllowAll: r.rights.GetAllowAll(), Hosts: r.rights.GetHosts(), Additional: r.secrets.GetRegistry()}
}

// identity returns a hash of the fields that must be equal if a request id is used again. The hash
// does not cover the values of secrets: they must not be stored, not even as a hash.
func (r *buildRequest) identity() []byte {
	c := &buildsv1.CreateBuild{
		Source: r.source, Rights: r.rights, Requester: r.requester, Labels: r.labels,
		TimeoutNanos: int64(r.timeout), Force: r.force, BaseRef: r.baseResolved,
		Secrets: &buildsv1.Secrets{Build: map[string][]byte{}, Registry: map[string]*imagebuilderv1.BasicAuth{}},
	}
	for id := range r.secrets.GetBuild() {
		c.Secrets.Build[id] = nil
	}
	for host, a := range r.secrets.GetRegistry() {
		c.Secrets.Registry[host] = &imagebuilderv1.BasicAuth{Username: a.GetUsername()}
	}
	if g := r.secrets.GetGit(); g != nil {
		c.Secrets.Git = &imagebuilderv1.BasicAuth{Username: g.GetUsername()}
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil { // only for invalid UTF-8, which validation refuses
		raw = nil
	}
	return []byte(hexSHA256(string(raw)))
}
