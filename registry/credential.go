package registry

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Rights decide which credentials one request may use. The zero Rights permit none: all requests
// are anonymous, except to hosts that Options.AllowedByDefault permits to everybody.
type Rights struct {
	// AllowAll permits every credential of the install.
	AllowAll bool
	// Hosts lists the hosts, matched exactly, for which the request may use the install's
	// credential.
	Hosts []string
	// Additional holds the request's own credentials by registry host. They are used if the request
	// may not use a credential of the install, and never for the host of the workspace images.
	Additional map[string]Basic
}

// Basic is a user and a password. It must not be logged.
type Basic struct{ Username, Password string }

// String hides the password from careless formatting.
func (b Basic) String() string { return "registry credential of " + b.Username }

// GoString hides the password from careless formatting.
func (b Basic) GoString() string { return b.String() }

// credential is what a request presents to a host. The zero credential is anonymous.
type credential struct {
	username, password           string
	identityToken, registryToken string
	// source names for people where the credential comes from. It does not count in comparisons.
	source string
}

// same reports whether two credentials are equal apart from their source.
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

// secrets returns the strings that must not appear in any text.
func (c credential) secrets() []string {
	if c.anonymous() {
		return nil
	}
	basic := base64.StdEncoding.EncodeToString([]byte(c.username + ":" + c.password))
	return []string{basic, c.password, c.identityToken, c.registryToken}
}

// identity returns a string that differs between credentials and does not reveal them. The salt
// makes it meaningless outside this process.
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

// sourceName names the source of a credential for people.
func (c credential) sourceName() string {
	switch {
	case c.anonymous():
		return "none"
	case c.source == "":
		return "unknown"
	}
	return c.source
}
