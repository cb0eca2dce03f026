package buildkit

import (
	"context"
	"fmt"
	"slices"

	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// authenticator serves the daemon's requests for registry credentials, by exact host. The daemon
// pulls and pushes with them; the containers of the build never see them.
//
// A request does not say whether the daemon pulls or pushes. Therefore hosts to which this install
// pushes get the credential of the install. The policy decides before every pull whether the
// request may read the image there.
//
// The methods that authenticator does not implement make the daemon fetch tokens itself.
type authenticator struct {
	auth.UnimplementedAuthServer
	credentials Credentials
	rights      *buildsv1.Rights
	own         []string
}

var _ auth.AuthServer = (*authenticator)(nil)

// Register adds the service to the server of the session.
func (a *authenticator) Register(s *grpc.Server) { auth.RegisterAuthServer(s, a) }

// Credentials returns the credential for the host of the request. Both names of Docker Hub's
// registry count as docker.io.
func (a *authenticator) Credentials(ctx context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	host := req.Host
	if host == "registry-1.docker.io" || host == "index.docker.io" {
		host = "docker.io"
	}
	user, password, err := a.credentials(ctx, host, a.rights, slices.Contains(a.own, host))
	if err != nil {
		return nil, fmt.Errorf("find the credential for %s: %w", host, err)
	}
	return &auth.CredentialsResponse{Username: user, Secret: password}, nil
}
