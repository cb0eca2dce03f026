// Package google makes credentials for Google's registries from the identity of this process by
// Application Default Credentials: a key or a workload identity federation file in
// GOOGLE_APPLICATION_CREDENTIALS, or the service account of the pod or the machine.
package google

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"golang.org/x/oauth2/google"

	"github.com/image-builder-ha/image-builder/registry"
)

// hosts matches Container Registry and Artifact Registry (Google's documentation of their
// locations). The whole name must match.
var hosts = regexp.MustCompile(`^(?:(?:[a-z]+(?:-[a-z]+)?\.)?gcr\.io|[a-z]+(?:-[a-z]+\d{1,2})?-docker\.pkg\.dev)$`)

// tokenUser is the user name for an access token (Artifact Registry's documentation of
// authentication).
const tokenUser = "oauth2accesstoken"

// anonymousFor is how long registries are used anonymously before the next search for an identity.
const anonymousFor = time.Minute

// Provider makes credentials for Google's registries.
type Provider struct{}

var _ registry.Provider = Provider{}

// New returns a provider.
func New() Provider { return Provider{} }

// Name implements registry.Provider.
func (Provider) Name() string { return "google" }

// Matches implements registry.Provider.
func (Provider) Matches(host string) bool { return hosts.MatchString(host) }

// Login implements registry.Provider with an access token. Its scope permits reads and writes; the
// roles of the service account decide what it may do. A process without an identity gets the empty,
// anonymous Login.
func (p Provider) Login(ctx context.Context, host string) (registry.Login, error) {
	if !p.Matches(host) {
		return registry.Login{}, fmt.Errorf("%q is not a registry of Google", host)
	}
	cred, err := google.FindDefaultCredentials(ctx, "https://www.googleapis.com/auth/cloud-platform")
	if err != nil {
		// Many images here are public and need no identity.
		return registry.Login{Expires: time.Now().Add(anonymousFor)}, nil //nolint:nilerr // see above
	}
	token, err := cred.TokenSource.Token()
	if err != nil {
		return registry.Login{}, fmt.Errorf("get a token from Google: %w", err)
	}
	return registry.Login{Username: tokenUser, Password: token.AccessToken, Expires: token.Expiry}, nil
}
