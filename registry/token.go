package registry

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	// defaultTokenLife is the lifetime of a token without an expiry (distribution specification of
	// token authentication).
	defaultTokenLife = time.Minute
	// maxTokenLife bounds how long a token is used, whatever its expiry.
	maxTokenLife = time.Hour
)

// authenticated finds out how the registry authenticates. It returns a transport that does so, and
// the time at which its token must be renewed (zero for never). The transport never renews its
// token. A 401 of the registry is an error instead, after which one new session is made for all
// callers.
func (c *Client) authenticated(ctx context.Context, reg name.Registry, cred credential, scopes []string) (tr http.RoundTripper, renew time.Time, err error) {
	base := transport.NewUserAgent(caller{c.wire, cred.identity(c.salt)}, "image-builder")
	challenge, err := transport.Ping(ctx, reg, base)
	if err != nil {
		return nil, renew, err
	}
	auth := cred.authenticator()
	token := &transport.Token{}
	switch {
	case !strings.EqualFold(challenge.Scheme, "bearer"):
	case cred.registryToken != "":
		token.Token = cred.registryToken
	default:
		if token, err = transport.Exchange(ctx, reg, auth, base, scopes, challenge); err != nil {
			return nil, renew, err
		}
		if token.AccessToken != "" {
			token.Token = token.AccessToken
		}
		life := min(time.Duration(min(token.ExpiresIn, 1<<20))*time.Second, maxTokenLife)
		if life <= 0 {
			life = defaultTokenLife
		}
		renew = time.Now().Add(life - renewBefore(life))
	}
	own := &failOn401{next: base, host: c.wire.canonical(reg.RegistryStr()), wire: c.wire}
	tr, err = transport.FromToken(reg, auth, own, challenge, token)
	return tr, renew, err
}

// failOn401 turns a 401 of the registry itself into an error. A 401 of another host, after a
// redirect, is left to go-containerregistry: it gets an anonymous token from that host, as the
// targets of registry.k8s.io's redirects require.
type failOn401 struct {
	next http.RoundTripper
	host string
	wire *wire
}

// RoundTrip implements http.RoundTripper.
func (f *failOn401) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || f.wire.canonical(req.URL.Host) != f.host {
		return resp, err
	}
	defer discard(resp)
	return nil, statusOf(transport.CheckError(resp))
}
