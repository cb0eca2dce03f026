package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	pull = "pull"
	push = "push,pull"
)

// target is a repository and how it is to be reached.
type target struct {
	host    string // the domain of the reference
	path    string // the repository at that host
	actions string // pull or push
	from    string // another repository at the host to pull from, for mounts
	cred    credential
}

// targetOf finds the credential for a repository. Errors are *kindError.
func (c *Client) targetOf(ctx context.Context, named reference.Named, actions string, r Rights) (target, error) {
	t := target{host: reference.Domain(named), path: reference.Path(named), actions: actions}
	var err error
	t.cred, err = c.credentialFor(ctx, t.host, t.path, r)
	return t, err
}

// key tells sessions apart: repository, scopes and credential.
func (c *Client) key(t target) string {
	return strings.Join([]string{"session", c.canonical(t.host), t.path, t.actions, t.from, t.cred.identity(c.salt)}, "\x00")
}

// session is an authenticated way to one repository. Sessions are kept and
// shared among calls with the same credential, because to make one costs a
// ping and a token. go-containerregistry's own Puller and Pusher are not kept:
// a Pusher remembers what it pushed, and would not notice that it was deleted.
type session struct {
	target
	base   url.URL
	client *http.Client
}

// session finds or makes the session for a target; reused tells which.
func (c *Client) session(ctx context.Context, t target) (s *session, reused bool, err error) {
	key := c.key(t)
	if s, ok := c.sessions.Get(key); ok {
		return s, true, nil
	}
	s, err = merged(ctx, c.flights, key, c.opts.Timeout/2, func(ctx context.Context) (*session, error) {
		s, err := c.newSession(ctx, t)
		if err == nil {
			c.sessions.Add(key, s)
		}
		return s, err
	})
	return s, false, err
}

func (c *Client) newSession(ctx context.Context, t target) (*session, error) {
	reg, err := name.NewRegistry(t.host)
	if err != nil {
		return nil, &kindError{kind: Invalid, text: fmt.Sprintf("%q is not a registry host", t.host)}
	}
	scopes := []string{"repository:" + t.path + ":" + t.actions}
	if t.from != "" {
		scopes = append(scopes, "repository:"+t.from+":"+pull)
	}
	tr, err := transport.NewWithContext(ctx, reg, t.cred.authenticator(), transport.NewUserAgent(c.wire, "image-builder"), scopes)
	if err != nil {
		return nil, err
	}
	return &session{
		target: t,
		base:   url.URL{Scheme: "https", Host: reg.RegistryStr(), Path: "/v2/" + t.path + "/"},
		client: &http.Client{Transport: tr, CheckRedirect: checkRedirect},
	}, nil
}

// checkRedirect bounds redirects. Where they may lead is decided by the wire
// and the dialer; credentials are only ever sent to the session's host.
func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return &kindError{kind: Unsupported, text: "the registry redirects more than 5 times"}
	}
	return nil
}

// with calls op with a session. A session from the cache whose credentials
// are no longer accepted (the registry changed how it authenticates) is
// replaced once.
func (c *Client) with(ctx context.Context, t target, op func(context.Context, *session) error) error {
	s, reused, err := c.session(ctx, t)
	if err != nil {
		return err
	}
	err = op(ctx, s)
	if !reused || err == nil || examine(err).status != http.StatusUnauthorized {
		return err
	}
	c.sessions.Remove(c.key(t))
	c.logins.forget(t.cred)
	if s, _, err = c.session(ctx, t); err != nil {
		return err
	}
	return op(ctx, s)
}

// asking is with, repeated as retrying does, each try within half of the
// client's time limit: one lost connection does not use up all of it.
func (c *Client) asking(ctx context.Context, t target, op func(context.Context, *session) error) error {
	return c.retrying(ctx, c.opts.Timeout/2, nil, func(ctx context.Context) error { return c.with(ctx, t, op) })
}

// request makes a request below the repository, as in manifests/latest.
func (s *session) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	u := s.base
	u.Path += path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, &kindError{kind: Invalid, text: "the reference does not make a valid URL"}
	}
	return req, nil
}

// do sends a request and answers the response if its status is one of those
// wanted, else an error. The caller closes the body.
func (s *session) do(req *http.Request, want ...int) (*http.Response, error) {
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	for _, w := range want {
		if resp.StatusCode == w {
			return resp, nil
		}
	}
	defer discard(resp)
	err = transport.CheckError(resp, want...)
	var known *transport.Error
	if !errors.As(err, &known) {
		return nil, &statusError{code: resp.StatusCode}
	}
	return nil, err
}
