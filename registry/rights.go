package registry

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Rights say which credentials one request may use. The zero Rights may use
// none: everything is asked anonymously, but for hosts that
// Options.AllowedByDefault lets everybody use.
type Rights struct {
	// AllowAll lets the request use every credential of the install.
	AllowAll bool
	// Hosts are the hosts, matched exactly, whose credential of the install
	// the request may use.
	Hosts []string
	// Additional are the request's own credentials by registry host. They are
	// used where no credential of the install may be, and never for the host
	// of the workspace images.
	Additional map[string]Basic
}

// Basic is a user and a password. Never log it.
type Basic struct{ Username, Password string }

// String hides the password from careless formatting.
func (b Basic) String() string { return "registry credential of " + b.Username }

// GoString hides the password from careless formatting.
func (b Basic) GoString() string { return b.String() }

// credential is what one request presents to one host. The zero credential is
// the anonymous one.
type credential struct {
	username, password           string
	identityToken, registryToken string
	// source says for people where it is from. Two credentials are the same
	// whatever it is.
	source string
}

// same compares what is presented.
func (c credential) same(d credential) bool {
	c.source, d.source = "", ""
	return c == d
}

func (c credential) anonymous() bool { return c.same(credential{}) }

func (c credential) authenticator() authn.Authenticator {
	if c.anonymous() {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: c.username, Password: c.password,
		IdentityToken: c.identityToken, RegistryToken: c.registryToken,
	})
}

// secrets are the strings that must not be seen in any text.
func (c credential) secrets() []string {
	if c.anonymous() {
		return nil
	}
	basic := base64.StdEncoding.EncodeToString([]byte(c.username + ":" + c.password))
	return []string{basic, c.password, c.identityToken, c.registryToken}
}

// identity tells credentials apart without showing them. It is salted, so
// that it says nothing outside of this process.
func (c credential) identity(salt []byte) string {
	if c.anonymous() {
		return "anonymous"
	}
	h := hmac.New(sha256.New, salt)
	for _, s := range []string{c.username, c.password, c.identityToken, c.registryToken} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(s))) // a hash does not fail
		h.Write([]byte(s))
	}
	return string(h.Sum(nil))
}

// credentialFor finds the credential for a repository of a host (contract
// section 9): the install's if the rights allow it and there is one, else the
// request's own unless the host is that of the workspace images, else none.
// The install's is an entry of the docker config, or that of the first
// Provider for the host. It asks helpers and providers, within the context;
// their failures are *kindError.
func (c *Client) credentialFor(ctx context.Context, host, repository string, r Rights) (credential, error) {
	host = c.canonical(host)
	if c.mayUseInstalls(host, r) {
		if cred, err := c.installs(ctx, host, repository); err != nil || !cred.anonymous() {
			return cred, err
		}
	}
	if host == c.workspaceHost {
		return credential{}, nil
	}
	own := func(b Basic) (credential, error) {
		return credential{username: b.Username, password: b.Password, source: "the request"}, nil
	}
	for _, name := range aliases(host) {
		if b, ok := r.Additional[name]; ok {
			return own(b)
		}
	}
	for name, b := range r.Additional {
		if c.canonical(configHost(name)) == host {
			return own(b)
		}
	}
	return credential{}, nil
}

// mayUseInstalls tells whether a request may use the install's credential for a
// canonical host, whether there is one or not.
func (c *Client) mayUseInstalls(host string, r Rights) bool {
	return r.AllowAll || c.contains(r.Hosts, host) || c.opts.AllowedByDefault != nil && c.opts.AllowedByDefault(host)
}

// installs answers the install's credential, the anonymous one for none.
func (c *Client) installs(ctx context.Context, host, repository string) (credential, error) {
	if e, ok := c.config.lookup(host, repository, c.canonical); ok && e.helper == "" {
		return e.cred, nil
	} else if ok {
		who := fmt.Sprintf("the credential helper %s for %s", e.helper, e.name)
		cred, err := c.logins.get(ctx, "helper\x00"+e.helper+"\x00"+e.server, func(ctx context.Context) (Login, error) {
			return c.loggedIn(ctx, who, func(ctx context.Context) (Login, error) { return runHelper(ctx, e.helper, e.server) })
		})
		if err != nil || !cred.anonymous() {
			cred.source = who
			return cred, err
		}
	}
	for _, p := range c.opts.Providers {
		if !p.Matches(host) {
			continue
		}
		who := "the provider " + p.Name()
		cred, err := c.logins.get(ctx, "provider\x00"+p.Name()+"\x00"+host, func(ctx context.Context) (Login, error) {
			return c.loggedIn(ctx, who, func(ctx context.Context) (Login, error) { return p.Login(ctx, host) })
		})
		cred.source = who
		return cred, err
	}
	return credential{}, nil
}

// loggedIn makes failures fit to be shown, and tells operators.
func (c *Client) loggedIn(ctx context.Context, who string, ask func(context.Context) (Login, error)) (Login, error) {
	l, err := ask(ctx)
	if err != nil {
		err = loginError(who, err)
		c.opts.Logger.Warn("cannot get a registry credential", "from", who, "err", err)
	}
	return l, err
}

// aliases are the spellings to look for first, so that the choice does not
// depend on the order of a map.
func aliases(host string) []string {
	if host == dockerHub {
		return []string{dockerHub, hubServer, "index.docker.io", "registry-1.docker.io"}
	}
	return []string{host}
}

func (c *Client) contains(hosts []string, host string) bool {
	for _, h := range hosts {
		if c.canonical(h) == host {
			return true
		}
	}
	return false
}

// canonical is canonicalHost with this client's knowledge of plain HTTP hosts.
func (c *Client) canonical(host string) string {
	return canonicalHost(host, c.plain.has(host))
}
