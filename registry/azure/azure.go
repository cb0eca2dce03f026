// Package azure makes credentials for Azure Container Registry from the identity of this process: a
// service principal in the environment, workload identity, or managed identity. It is separate from
// package registry because its dependencies are large.
package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/image-builder-ha/image-builder/registry"
)

// hosts matches registries of the public cloud, of China and of the US government. A name has 5 to
// 50 letters and digits, and optionally the suffix of a domain name label scope. The whole name
// must match.
var hosts = regexp.MustCompile(`^[a-z0-9]{5,50}(?:-[a-z0-9]{1,20})?\.azurecr\.(?:io|cn|us)$`)

const (
	// tokenUser is the user name for a refresh token (Microsoft's documentation of ACR
	// authentication with an exposed token).
	tokenUser = "00000000-0000-0000-0000-000000000000"
	// scope is the scope of registries in all clouds.
	scope = "https://containerregistry.azure.net/.default"
	// life is how long a refresh token is used. Registries issue them for three hours.
	life = time.Hour
	// maxResponse bounds the response to a token exchange, in bytes.
	maxResponse = 64 << 10
)

// Provider makes credentials for Azure Container Registry.
type Provider struct {
	identity func() (azcore.TokenCredential, error) // called once, at the first use
	client   *http.Client
}

var _ registry.Provider = (*Provider)(nil)

// New returns a provider that uses the identity of this process.
func New() *Provider { return newProvider(chain, http.DefaultTransport) }

func newProvider(identity func() (azcore.TokenCredential, error), tr http.RoundTripper) *Provider {
	// A redirect would carry the token elsewhere.
	never := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Provider{identity: sync.OnceValues(identity), client: &http.Client{Transport: tr, CheckRedirect: never}}
}

// chain is azidentity's default chain without the parts that make no sense in a pod. Credentials
// that are not configured are left out.
func chain() (azcore.TokenCredential, error) {
	var all []azcore.TokenCredential
	if c, err := azidentity.NewEnvironmentCredential(nil); err == nil {
		all = append(all, c)
	}
	if c, err := azidentity.NewWorkloadIdentityCredential(nil); err == nil {
		all = append(all, c)
	}
	if c, err := azidentity.NewManagedIdentityCredential(nil); err == nil {
		all = append(all, c)
	}
	return azidentity.NewChainedTokenCredential(all, nil)
}

// Name implements registry.Provider.
func (*Provider) Name() string { return "azure" }

// Matches implements registry.Provider.
func (*Provider) Matches(host string) bool { return hosts.MatchString(host) }

// Login implements registry.Provider. It exchanges a token of Entra ID for a refresh token of the
// registry, which it returns as a password. It makes up to two requests and blocks until ctx ends.
func (p *Provider) Login(ctx context.Context, host string) (registry.Login, error) {
	if !p.Matches(host) {
		return registry.Login{}, fmt.Errorf("%q is not a registry of Azure", host)
	}
	identity, err := p.identity()
	if err != nil {
		return registry.Login{}, fmt.Errorf("find the Azure identity: %w", err)
	}
	token, err := identity.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
	if err != nil {
		return registry.Login{}, fmt.Errorf("get a token from Entra ID: %w", err)
	}
	refresh, err := p.exchange(ctx, host, token.Token)
	if err != nil {
		return registry.Login{}, err
	}
	return registry.Login{Username: tokenUser, Password: refresh, Expires: time.Now().Add(life)}, nil
}

func (p *Provider) exchange(ctx context.Context, host, token string) (string, error) {
	form := url.Values{"grant_type": {"access_token"}, "service": {host}, "access_token": {token}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+"/oauth2/exchange", strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("exchange the token: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := p.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("exchange the token: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("exchange the token: the registry returned status %d", resp.StatusCode)
	}
	var body struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxResponse)).Decode(&body); err != nil || body.RefreshToken == "" {
		return "", errors.New("exchange the token: the registry returned no token")
	}
	return body.RefreshToken, nil
}
