package api

import (
	"slices"
	"strings"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Repositories are the repositories to which an install publishes its images.
type Repositories struct {
	// Base and Workspace are the repositories of base images and of workspace images, without tag.
	Base, Workspace string
	// BaseHost and WorkspaceHost are the hosts of their registries.
	BaseHost, WorkspaceHost string
}

// ownRights returns the rights of the service to the repositories of the install. It looks there
// for its own images, whatever the request may use (docs/gitpod-contract.md, section 5).
func (r Repositories) ownRights() *buildsv1.Rights {
	return &buildsv1.Rights{Hosts: []string{r.BaseHost, r.WorkspaceHost}}
}

// rightsToRead returns the rights with which the image ref may be read: the rights of the request,
// and for an image in the base repository also those of the service, because an earlier build
// published it (docs/gitpod-contract.md, section 5).
func (r Repositories) rightsToRead(ref string, rights *buildsv1.Rights) *buildsv1.Rights {
	rest, ok := strings.CutPrefix(ref, r.Base)
	if !ok || rest == "" || rest[0] != ':' && rest[0] != '@' || slices.Contains(rights.GetHosts(), r.BaseHost) {
		return rights
	}
	return &buildsv1.Rights{AllowAll: rights.GetAllowAll(), Hosts: append(slices.Clone(rights.GetHosts()), r.BaseHost), Additional: rights.GetAdditional()}
}
