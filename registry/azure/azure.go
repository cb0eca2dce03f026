// Package azure makes credentials for Azure Container Registry from the
// identity of this process: a service principal in the environment, workload
// identity, or managed identity. It is apart from package registry because the
// library is large.
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

// hosts are registries of the public cloud, China and the US government. A
// name has 5 to 50 letters and digits, and maybe a suffix of a domain name
// label scope. The whole name must match.
var hosts = regexp.MustCompile(`^[a-z0-9]{5,50}(?:-[a-z0-9]{1,20})?\.azurecr\.(?:io|cn|us)$`)

const (
	// tokenUser goes with a refresh token (Microsoft's documentation of ACR's
	// authentication with an exposed token).
	tokenUser = "00000000-0000-0000-0000-000000000000"
	// scope is that of registries in all clouds.
	scope = "https://containerregistry.azure.net/.default"
	// life is how long a refresh token is used; registries issue them for
	// three hours.
	life = time.Hour
	// maxAnswer bounds what an exchange may answer.
	maxAnswer = 64 << 10
)

// Provider makes credentials for Azure Container Registry.
type Provider struct {
	identity func() (azcore.TokenCredential, error) // once, at the first use
	client   *http.Client
}

var _ registry.Provider = (*Provider)(nil)

// New answers a provider with the identity of this process.
func New() *Provider { return newProvider(chain, http.DefaultTransport) }

func newProvider(identity func() (azcore.TokenCredential, error), tr http.RoundTripper) *Provider {
	// A redirect would carry the token elsewhere.
	never := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Provider{identity: sync.OnceValues(identity), client: &http.Client{Transport: tr, CheckRedirect: never}}
}

// chain is the part of azidentity's default chain that makes sense in a pod:
// what is not configured is left out.
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

// Login implements registry.Provider: it exchanges a token of Entra ID for one
// of the registry.
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
		return registry.Login{}, fmt.Errorf("ask Entra ID for a token: %w", err)
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
		return "", fmt.Errorf("exchange the token: the registry answered %d", resp.StatusCode)
	}
	var answer struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&answer); err != nil || answer.RefreshToken == "" {
		return "", errors.New("exchange the token: the registry answered without one")
	}
	return answer.RefreshToken, nil
}
