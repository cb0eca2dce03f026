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
	// tokenLife is that of a token that does not tell it (distribution
	// specification of token authentication).
	tokenLife = time.Minute
	// maxTokenLife is as long as a token is used, whatever it says.
	maxTokenLife = time.Hour
)

// authenticated asks the registry how it authenticates and answers a transport
// that does so, and when its token is to be renewed (zero for never). The
// transport never renews by itself: a 401 of the registry is an error, upon
// which one session is made for all that wait for it.
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
			life = tokenLife
		}
		renew = time.Now().Add(life - lead(life))
	}
	own := &firm{next: base, host: c.wire.canonical(reg.RegistryStr()), wire: c.wire}
	tr, err = transport.FromToken(reg, auth, own, challenge, token)
	return tr, renew, err
}

// firm makes a 401 of the registry itself an error. One of another host, which
// a redirect leads to, is left to go-containerregistry: it asks that host for
// an anonymous token, as registry.k8s.io's targets need.
type firm struct {
	next http.RoundTripper
	host string
	wire *wire
}

// RoundTrip implements http.RoundTripper.
func (f *firm) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || f.wire.canonical(req.URL.Host) != f.host {
		return resp, err
	}
	defer discard(resp)
	return nil, statusOf(transport.CheckError(resp))
}
