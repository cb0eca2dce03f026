package registry

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Rights say which credentials one request may use. The zero Rights may use
// none: everything is asked anonymously.
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
}

func (c credential) anonymous() bool { return c == credential{} }

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

// credentialFor finds the credential for a host (contract section 9): the
// install's if the rights allow it and there is one, else the request's own
// unless the host is that of the workspace images, else none.
func (c *Client) credentialFor(host string, r Rights) credential {
	host = c.canonical(host)
	if r.AllowAll || c.contains(r.Hosts, host) {
		if cred, ok := c.config.lookup(host, c.canonical); ok {
			return cred
		}
	}
	if host == c.workspaceHost {
		return credential{}
	}
	for _, name := range aliases(host) {
		if b, ok := r.Additional[name]; ok {
			return credential{username: b.Username, password: b.Password}
		}
	}
	for name, b := range r.Additional {
		if c.canonical(configHost(name)) == host {
			return credential{username: b.Username, password: b.Password}
		}
	}
	return credential{}
}

// aliases are the spellings to look for first, so that the choice does not
// depend on the order of a map.
func aliases(host string) []string {
	if host == dockerHub {
		return []string{dockerHub, "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"}
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
