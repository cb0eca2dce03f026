// Package google makes credentials for Google's registries from the identity
// of this process: Application Default Credentials, that is a key or a
// workload identity federation file named by GOOGLE_APPLICATION_CREDENTIALS,
// or the service account of the pod or the machine.
package google

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"golang.org/x/oauth2/google"

	"github.com/image-builder-ha/image-builder/registry"
)

// hosts are Container Registry and Artifact Registry (Google's documentation
// of their locations). The whole name must match.
var hosts = regexp.MustCompile(`^(?:(?:[a-z]+(?:-[a-z]+)?\.)?gcr\.io|[a-z]+(?:-[a-z]+\d{1,2})?-docker\.pkg\.dev)$`)

// tokenUser goes with an access token (Artifact Registry's documentation of
// authentication).
const tokenUser = "oauth2accesstoken"

// anonymousFor is how long no identity is looked for after none was found.
const anonymousFor = time.Minute

// Provider makes credentials for Google's registries.
type Provider struct{}

var _ registry.Provider = Provider{}

// New answers a provider.
func New() Provider { return Provider{} }

// Name implements registry.Provider.
func (Provider) Name() string { return "google" }

// Matches implements registry.Provider.
func (Provider) Matches(host string) bool { return hosts.MatchString(host) }

// Login implements registry.Provider with an access token; its scope may read
// and write, and what the service account may is decided by its roles.
// A process without an identity gets the empty, anonymous Login.
func (p Provider) Login(ctx context.Context, host string) (registry.Login, error) {
	if !p.Matches(host) {
		return registry.Login{}, fmt.Errorf("%q is not a registry of Google", host)
	}
	cred, err := google.FindDefaultCredentials(ctx, "https://www.googleapis.com/auth/cloud-platform")
	if err != nil {
		// Much of what lies here is public, and read without an identity.
		return registry.Login{Expires: time.Now().Add(anonymousFor)}, nil //nolint:nilerr // see above
	}
	token, err := cred.TokenSource.Token()
	if err != nil {
		return registry.Login{}, fmt.Errorf("ask Google for a token: %w", err)
	}
	return registry.Login{Username: tokenUser, Password: token.AccessToken, Expires: token.Expiry}, nil
}
