package buildkit

import (
	"context"
	"fmt"
	"slices"

	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// authenticator answers the daemon's questions for registry credentials, by
// exact host. The daemon pulls and pushes with them; nothing of them is
// visible in the containers of the build.
//
// The daemon does not say whether it pulls or pushes, so hosts to which the
// install pushes get the install's credential. That the request may read an
// image there is the policy's decision, before every pull.
//
// What it does not implement makes the daemon fetch tokens itself.
type authenticator struct {
	auth.UnimplementedAuthServer
	credentials Credentials
	rights      *buildsv1.Rights
	own         []string
}

var _ auth.AuthServer = (*authenticator)(nil)

// Register adds the service to the session.
func (a *authenticator) Register(s *grpc.Server) { auth.RegisterAuthServer(s, a) }

// Credentials answers for one host.
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
