package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/image-builder-ha/image-builder/registry"
)

// maxSessions limits the number of sessions, which grows with each base image that a Dockerfile
// names.
const maxSessions = 256

// upstream sends requests to registries, with credentials.
type upstream struct {
	config *Config
	wire   http.RoundTripper
	pools  pools

	mu        sync.Mutex
	read, own map[string]Auth // from config, or renewed ones
	sessions  map[sessionKey]*session
}

type sessionKey struct {
	repo       repository
	own, write bool
}

// session is an authenticated client of one repository.
type session struct {
	base   url.URL
	client *http.Client
}

func newUpstream(c *Config) (*upstream, error) {
	p := pools{}
	for host, h := range c.Hosts {
		if h.CA == "" && !h.SkipVerify {
			continue
		}
		var err error
		if p[host], err = newPool(c, h.SkipVerify, c.CA, h.CA); err != nil {
			return nil, err
		}
	}
	var err error
	if p[""], err = newPool(c, false, c.CA); err != nil {
		return nil, err
	}
	return &upstream{
		config: c, pools: p, wire: schemes{next: p, plain: c.Insecure}, read: c.Read, own: c.Own,
		sessions: map[sessionKey]*session{},
	}, nil
}

// pools are connection pools: one for each host that has its own certificates, and the one named ""
// for all others.
type pools map[string]*http.Transport

// RoundTrip implements http.RoundTripper.
func (p pools) RoundTrip(req *http.Request) (*http.Response, error) {
	for _, h := range append(hostNames(req.URL.Host), "") {
		if t := p[h]; t != nil {
			return t.RoundTrip(req)
		}
	}
	return nil, errors.New("proxy: no connections")
}

func newPool(c *Config, skipVerify bool, cas ...string) (*http.Transport, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, ca := range cas {
		if ca != "" && !pool.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("proxy: ca holds no certificate in PEM")
		}
	}
	policy := registry.AddressPolicy{AllowHosts: c.AllowHosts, AllowLoopback: c.AllowLoopback}
	return &http.Transport{
		DialContext:           registry.GuardedDial(policy),
		Proxy:                 registry.GuardedProxy(policy, c.HTTPProxy.choose()),
		TLSClientConfig:       &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, InsecureSkipVerify: skipVerify},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 5 * time.Minute, // for the commit of a large blob
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // digests are over the bytes as sent
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       time.Minute,
	}, nil
}

func (u *upstream) close() {
	for _, p := range u.pools {
		p.CloseIdleConnections()
	}
}

// setCredentials replaces the credentials. Requests in progress keep the former ones.
func (u *upstream) setCredentials(read, own map[string]Auth) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.read, u.own = read, own
	clear(u.sessions)
}

// mirrors returns the grants for the mirrors of a base image, in the order in which they are tried.
func (u *upstream) mirrors(g grant) (out []grant) {
	if g.own || g.use != usePull {
		return nil
	}
	for _, h := range hostNames(g.repo.host) {
		for _, m := range u.config.Hosts[h].Mirrors {
			host, path, _ := strings.Cut(strings.TrimSuffix(m, "/"), "/")
			c := g
			c.repo = repository{host, strings.TrimPrefix(path+"/"+g.repo.path, "/")}
			out = append(out, c)
		}
	}
	return out
}

// session returns the session for the repository of a grant. It logs in if there is none yet.
func (u *upstream) session(ctx context.Context, g grant) (*session, error) {
	key := sessionKey{g.repo, g.own, g.write}
	u.mu.Lock()
	s := u.sessions[key]
	u.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := u.newSession(ctx, g)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.sessions) >= maxSessions {
		clear(u.sessions)
	}
	u.sessions[key] = s
	return s, nil
}

// dropSession removes a session whose credentials are no longer accepted.
func (u *upstream) dropSession(g grant) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.sessions, sessionKey{g.repo, g.own, g.write})
}

func (u *upstream) newSession(ctx context.Context, g grant) (*session, error) {
	reg, err := name.NewRegistry(g.repo.host)
	if err != nil {
		return nil, refuse("%q is not a registry host", g.repo.host)
	}
	actions := "pull"
	if g.write {
		actions = "push,pull"
	}
	u.mu.Lock()
	auths := u.read
	if g.own {
		auths = u.own
	}
	u.mu.Unlock()
	tr, err := transport.NewWithContext(ctx, reg, authenticator(auths, g.repo.host),
		transport.NewUserAgent(u.wire, "image-builder"), []string{"repository:" + g.repo.path + ":" + actions})
	if err != nil {
		return nil, fmt.Errorf("log in to %s for %s: %w", g.repo.host, g.repo.path, err)
	}
	return &session{
		base:   url.URL{Scheme: "https", Host: reg.RegistryStr(), Path: "/v2/" + g.repo.path + "/"},
		client: &http.Client{Transport: tr, CheckRedirect: checkRedirect},
	}, nil
}

// checkRedirect limits the number of redirects. Credentials are sent only to the host of the
// session.
func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("the registry redirects more than 5 times")
	}
	return nil
}

// authenticator returns the credential for a host, which must match exactly.
func authenticator(auths map[string]Auth, host string) authn.Authenticator {
	for _, h := range hostNames(host) {
		a, ok := auths[h]
		switch {
		case !ok:
		case a.User == "":
			return authn.FromConfig(authn.AuthConfig{IdentityToken: a.Password})
		default:
			return authn.FromConfig(authn.AuthConfig{Username: a.User, Password: a.Password})
		}
	}
	return authn.Anonymous
}

// hostNames returns the spellings of a host.
func hostNames(host string) []string {
	if host == "docker.io" {
		return []string{"docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1/"}
	}
	return []string{host, strings.TrimSuffix(host, ":443")}
}

// schemes sets the scheme of all requests, including those to token servers and redirects. It uses
// plain HTTP for loopback and the hosts that are configured for it, and TLS for all others.
type schemes struct {
	next  http.RoundTripper
	plain []string
}

// RoundTrip implements http.RoundTripper.
func (s schemes) RoundTrip(req *http.Request) (*http.Response, error) {
	scheme := "https"
	host := req.URL.Hostname()
	if host == "localhost" || host == "127.0.0.1" || host == "::1" || slices.Contains(s.plain, host) || slices.Contains(s.plain, req.URL.Host) {
		scheme = "http"
	}
	if req.URL.Scheme != scheme {
		r, u := *req, *req.URL
		u.Scheme = scheme
		r.URL = &u
		req = &r
	}
	return s.next.RoundTrip(req)
}
