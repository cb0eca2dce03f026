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

// Config is the file that tells the proxy of one pod what to grant.
type Config struct {
	// Listen is host:port; the host must be loopback.
	Listen string `json:"listen"`
	// Token is what clients present as password.
	Token string `json:"token"`

	Pull    Pull     `json:"pull"`
	Push    *Push    `json:"push,omitempty"`
	Cache   *Cache   `json:"cache,omitempty"`
	Context *Context `json:"context,omitempty"`

	// Read are the credentials for pulls, by host: what the request may use.
	Read map[string]Auth `json:"read,omitempty"`
	// Own are those of the install for push, cache and context, by host.
	Own map[string]Auth `json:"own,omitempty"`

	// Insecure are hosts that are spoken to by plain HTTP.
	Insecure []string `json:"insecure,omitempty"`
	// CA has certificates in PEM that are trusted beside the system's.
	CA string `json:"ca,omitempty"`
	// Hosts are options of single hosts, by name.
	Hosts map[string]Host `json:"hosts,omitempty"`
	// AllowHosts and AllowLoopback say which internal addresses may be dialled.
	AllowHosts    []string `json:"allowHosts,omitempty"`
	AllowLoopback bool     `json:"allowLoopback,omitempty"`
	// HTTPProxy is the way to registries; nil for the direct one. It resolves
	// names by itself, so that AllowHosts says nothing of what is behind it.
	HTTPProxy *HTTPProxy `json:"httpProxy,omitempty"`
}

// HTTPProxy are the values of HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as
// httpproxy.Config of golang.org/x/net has them. URLs may hold a password.
type HTTPProxy struct {
	HTTP  string `json:"http,omitempty"`
	HTTPS string `json:"https,omitempty"`
	No    string `json:"no,omitempty"`
}

// String hides the passwords of URLs from careless formatting.
func (*HTTPProxy) String() string { return "HTTP proxy" }

// GoString hides the passwords of URLs from careless formatting.
func (*HTTPProxy) GoString() string { return "HTTP proxy" }

// choose answers the proxy for a request, or nil, as http.Transport wants it.
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

// Host says how one registry host is spoken to, as registry.HostOptions does.
type Host struct {
	// Mirrors (host or host/path) are asked first for base images, each with its
	// own credential in Read.
	Mirrors []string `json:"mirrors,omitempty"`
	// CA has certificates in PEM that are trusted for this host, too.
	CA         string `json:"ca,omitempty"`
	SkipVerify bool   `json:"skipVerify,omitempty"`
}

// Pull says which base images may be read.
type Pull struct {
	// Any lets every repository be read that the credentials in Read, or none,
	// give access to: a Dockerfile names what it wants.
	Any bool `json:"any,omitempty"`
	// Image is the only image that may be read otherwise, HOST/REPOSITORY@DIGEST;
	// what its index or manifest refers to is read by digest as well.
	Image string `json:"image,omitempty"`
}

// Push says where the image goes.
type Push struct {
	// Repository is HOST/REPOSITORY.
	Repository string `json:"repository"`
	// Tag is the tag that every push by tag gets, whatever tag it asks for. If
	// empty, pushes by tag are refused.
	Tag string `json:"tag,omitempty"`
}

// Cache says where the build cache is.
type Cache struct {
	Repository string `json:"repository"`
	// TagPrefix begins the tags that may be used.
	TagPrefix string `json:"tagPrefix"`
	// Write lets the build write its cache.
	Write bool `json:"write,omitempty"`
}

// Context is the uploaded context: an image with one layer.
type Context struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	// Digest is that of the layer.
	Digest string `json:"digest"`
}

// ReadConfig reads a configuration file; unknown fields are errors.
func ReadConfig(path string) (*Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the proxy's configuration: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	c := &Config{}
	if err := dec.Decode(c); err != nil {
		return nil, fmt.Errorf("decode the proxy's configuration at %s: it is not as this version writes it", path)
	}
	return c, c.Validate()
}

// Validate says what is wrong with a configuration.
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
