package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"

	"golang.org/x/net/http/httpproxy"
)

// User is the user name that clients present with the token.
const User = "build"

// Config is the configuration file of the proxy of one pod. It says what the proxy grants.
type Config struct {
	// Listen is host:port; the host must be a loopback address.
	Listen string `json:"listen"`
	// Token is the password that clients present.
	Token string `json:"token"`

	Pull    Pull     `json:"pull"`
	Push    *Push    `json:"push,omitempty"`
	Cache   *Cache   `json:"cache,omitempty"`
	Context *Context `json:"context,omitempty"`

	// Read holds the credentials for pulls, by host: those that the request may use.
	Read map[string]Auth `json:"read,omitempty"`
	// Own holds the credentials of the install for push, cache and context, by host.
	Own map[string]Auth `json:"own,omitempty"`

	// Insecure lists the hosts that are reached over plain HTTP.
	Insecure []string `json:"insecure,omitempty"`
	// CA holds certificates in PEM that are trusted in addition to those of the system.
	CA string `json:"ca,omitempty"`
	// Hosts holds options of single hosts, by name.
	Hosts map[string]Host `json:"hosts,omitempty"`
	// AllowHosts lists the internal hosts that the proxy may connect to. AllowLoopback permits
	// loopback addresses too.
	AllowHosts    []string `json:"allowHosts,omitempty"`
	AllowLoopback bool     `json:"allowLoopback,omitempty"`
	// HTTPProxy is the HTTP proxy for connections to registries; nil for direct connections. It
	// resolves names itself, so that AllowHosts does not apply behind it.
	HTTPProxy *HTTPProxy `json:"httpProxy,omitempty"`
}

// HTTPProxy holds the values of HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as in httpproxy.Config of
// golang.org/x/net. The URLs may contain a password.
type HTTPProxy struct {
	HTTP  string `json:"http,omitempty"`
	HTTPS string `json:"https,omitempty"`
	No    string `json:"no,omitempty"`
}

// String hides the passwords in the URLs from careless formatting.
func (*HTTPProxy) String() string { return "HTTP proxy" }

// GoString hides the passwords in the URLs from careless formatting.
func (*HTTPProxy) GoString() string { return "HTTP proxy" }

// choose returns the function for http.Transport that selects the proxy for a request; nil if p is
// nil.
func (p *HTTPProxy) choose() func(*http.Request) (*url.URL, error) {
	if p == nil {
		return nil
	}
	byURL := (&httpproxy.Config{HTTPProxy: p.HTTP, HTTPSProxy: p.HTTPS, NoProxy: p.No}).ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return byURL(r.URL) }
}

// Auth is a user and a password; without a user, an identity token.
type Auth struct {
	User     string `json:"user,omitempty"`
	Password string `json:"password"`
}

// String hides the password from careless formatting.
func (a Auth) String() string { return "registry credential of " + a.User }

// GoString hides the password from careless formatting.
func (a Auth) GoString() string { return a.String() }

// Host holds the connection options of one registry host, as registry.HostOptions does.
type Host struct {
	// Mirrors (host or host/path) are tried first for base images, each with its own credential in
	// Read.
	Mirrors []string `json:"mirrors,omitempty"`
	// CA holds certificates in PEM that are also trusted for this host.
	CA         string `json:"ca,omitempty"`
	SkipVerify bool   `json:"skipVerify,omitempty"`
}

// Pull says which base images may be read.
type Pull struct {
	// Any allows every repository that can be read with the credentials in Read, or without any. It
	// is for Dockerfiles, which name their base images themselves.
	Any bool `json:"any,omitempty"`
	// Image is the only image that may be read without Any, as HOST/REPOSITORY@DIGEST. The blobs
	// and manifests that it refers to may be read by digest as well.
	Image string `json:"image,omitempty"`
}

// Push says where the image is pushed.
type Push struct {
	// Repository is HOST/REPOSITORY.
	Repository string `json:"repository"`
	// Tag replaces the tag of every push by tag. If empty, pushes by tag are refused.
	Tag string `json:"tag,omitempty"`
}

// Cache says where the build cache is.
type Cache struct {
	Repository string `json:"repository"`
	// TagPrefix is the prefix of the tags that may be used.
	TagPrefix string `json:"tagPrefix"`
	// Write lets the build write its cache.
	Write bool `json:"write,omitempty"`
}

// Context is the uploaded context: an image with one layer.
type Context struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	// Digest is the digest of the layer.
	Digest string `json:"digest"`
}

// ReadConfig reads a configuration file. Unknown fields are errors.
func ReadConfig(path string) (*Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the proxy's configuration: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	c := &Config{}
	if err := dec.Decode(c); err != nil {
		return nil, fmt.Errorf("decode the proxy's configuration at %s: it does not have the format of this version", path)
	}
	return c, c.Validate()
}

// Validate returns an error that describes the first invalid value.
func (c *Config) Validate() error {
	host, _, err := net.SplitHostPort(c.Listen)
	ip := net.ParseIP(host)
	switch {
	case err != nil || ip == nil || !ip.IsLoopback():
		return fmt.Errorf("proxy: listen at %q: give an address of loopback and a port, as in 127.0.0.1:5000", c.Listen)
	case len(c.Token) < 16:
		return errors.New("proxy: the token has less than 16 bytes")
	case c.Pull.Any && c.Pull.Image != "":
		return errors.New("proxy: pull has both any and image: give one of them")
	}
	var repositories []string
	if c.Pull.Image != "" {
		repo, digest := cutDigest(c.Pull.Image)
		if digest == "" {
			return fmt.Errorf("proxy: the base image %q has no digest", c.Pull.Image)
		}
		repositories = append(repositories, repo)
	}
	if c.Push != nil {
		repositories = append(repositories, c.Push.Repository)
	}
	if c.Cache != nil {
		repositories = append(repositories, c.Cache.Repository)
	}
	if c.Context != nil {
		repositories = append(repositories, c.Context.Repository)
	}
	if i := slices.IndexFunc(repositories, func(r string) bool { _, err := parseRepository(r); return err != nil }); i >= 0 {
		return fmt.Errorf("proxy: %q is not a repository of the form host/name", repositories[i])
	}
	return nil
}
