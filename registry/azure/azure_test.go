package azure

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

func TestMatches_WholeNamesOnly(t *testing.T) {
	for host, want := range map[string]bool{
		"myregistry.azurecr.io": true, "myregistry.azurecr.cn": true, "myregistry.azurecr.us": true, "myregistry-abc123.azurecr.io": true,
		"myregistry.azurecr.io.evil.example": false, "azurecr.io": false, "evil.example.azurecr.io": false, "myregistryazurecr.io": false,
		"myregistry.azurecr.io:8443": false, "myregistry.eastus.data.azurecr.io": false, "abcd.azurecr.io": false, "": false,
	} {
		if got := New().Matches(host); got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
}

type identity string

func (i identity) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(i) + " for " + strings.Join(o.Scopes, " "), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// to sends every request to a server.
type to struct{ url string }

func (t to) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", strings.TrimPrefix(t.url, "http://")
	return http.DefaultTransport.RoundTrip(r)
}

func provider(t *testing.T, h http.HandlerFunc) *Provider {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return newProvider(func() (azcore.TokenCredential, error) { return identity("secret-token"), nil }, to{s.URL})
}

func TestLogin_ExchangesTheIdentitysToken(t *testing.T) {
	p := provider(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/oauth2/exchange" || r.Host != "myregistry.azurecr.io" || r.FormValue("service") != "myregistry.azurecr.io" ||
			r.FormValue("grant_type") != "access_token" || r.FormValue("access_token") != "secret-token for "+scope {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, `{"refresh_token":"refresh"}`)
	})
	l, err := p.Login(t.Context(), "myregistry.azurecr.io")
	if err != nil || l.Username != tokenUser || l.Password != "refresh" || time.Until(l.Expires) > time.Hour {
		t.Errorf("%v, %v", l, err)
	}
}

func TestLogin_FailsWithoutShowingTokens(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"status": func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, r.FormValue("access_token"), http.StatusForbidden)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example/", http.StatusTemporaryRedirect)
		},
		"no JSON":  func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.FormValue("access_token")) },
		"no token": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) },
		"too long": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"x":%q,"refresh_token":"r"}`, strings.Repeat("x", maxResponse))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := provider(t, h).Login(t.Context(), "myregistry.azurecr.io"); err == nil || strings.Contains(err.Error(), "secret-token") {
				t.Errorf("error: %v", err)
			}
		})
	}
	p := provider(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	if _, err := p.Login(t.Context(), "myregistry.azurecr.io.evil.example"); err == nil {
		t.Error("a login for another host")
	}
}
