package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

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
	mirrors []target // asked first
}

// targetOf finds the credential for a repository, and the mirrors of one that
// is pulled from. Errors are *kindError.
func (c *Client) targetOf(ctx context.Context, named reference.Named, actions string, r Rights) (target, error) {
	t := target{host: reference.Domain(named), path: reference.Path(named), actions: actions}
	var err error
	if t.cred, err = c.credentialFor(ctx, t.host, t.path, r); err != nil || actions != pull {
		return t, err
	}
	for _, m := range c.hosts.mirrors[c.canonical(t.host)] {
		mt := target{host: m.host, path: m.repository(t.path), actions: pull}
		if mt.cred, err = c.credentialFor(ctx, mt.host, mt.path, r); err != nil {
			continue // it has been logged; there are others
		}
		t.mirrors = append(t.mirrors, mt)
	}
	return t, nil
}

// anonymous tells that no credential is used wherever the answer is from.
func (t target) anonymous() bool {
	return t.cred.anonymous() && !slices.ContainsFunc(t.mirrors, func(m target) bool { return !m.anonymous() })
}

// secrets are those of all credentials that may be used.
func (t target) secrets() []string {
	out := t.cred.secrets()
	for _, m := range t.mirrors {
		out = append(out, m.cred.secrets()...)
	}
	return out
}

// key tells sessions apart: repository, scopes and credential.
func (c *Client) key(t target) string {
	return strings.Join([]string{"session", c.canonical(t.host), t.path, t.actions, t.from, t.cred.identity(c.salt)}, "\x00")
}

// keys is key with those of the mirrors: two targets with equal ones get equal
// answers.
func (c *Client) keys(t target) string {
	out := c.key(t)
	for _, m := range t.mirrors {
		out += "\x00\x00" + c.key(m)
	}
	return out
}

// session is an authenticated way to one repository. Sessions are kept and
// shared among calls with the same credential, because to make one costs a
// ping and a token. go-containerregistry's own Puller and Pusher are not kept:
// a Pusher remembers what it pushed, and would not notice that it was deleted.
type session struct {
	target
	base   url.URL
	client *http.Client
	// renew is when its token is about to end, zero for never.
	renew time.Time
}

// usable tells whether the session's token lives for a while yet.
func (s *session) usable() bool { return s.renew.IsZero() || time.Now().Before(s.renew) }

// session finds or makes the session for a target; reused tells which.
func (c *Client) session(ctx context.Context, t target) (s *session, reused bool, err error) {
	if traceOf(ctx) != nil {
		s, err = c.newSession(ctx, t)
		return s, false, err
	}
	key := c.key(t)
	if s, ok := c.sessions.Get(key); ok && s.usable() {
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
	tr, renew, err := c.authenticated(ctx, reg, t.cred, scopes)
	if err != nil {
		return nil, err
	}
	return &session{
		target: t,
		base:   url.URL{Scheme: "https", Host: reg.RegistryStr(), Path: "/v2/" + t.path + "/"},
		client: &http.Client{Transport: tr, CheckRedirect: checkRedirect},
		renew:  renew,
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

// with calls op with a session of the first mirror that has an answer, or of
// the host itself. A mirror gets a part of the time.
func (c *Client) with(ctx context.Context, t target, op func(context.Context, *session) error) error {
	for _, m := range t.mirrors {
		err := briefly(ctx, c.opts.Timeout/mirrorShare, func(ctx context.Context) error { return c.withOne(ctx, m, op) })
		if err == nil || ctx.Err() != nil {
			return err
		}
		traceOf(ctx).fail(m, err)
		c.opts.Logger.Debug("a mirror has no answer", "mirror", m.host, "host", t.host, "err", examine(err, m.secrets()...).err)
	}
	err := c.withOne(ctx, t, op)
	if err != nil {
		traceOf(ctx).fail(t, err)
	}
	return err
}

// mirrorShare is the part of the client's Timeout that a mirror gets to begin
// its answer.
const mirrorShare = 6

// briefly calls try with a time limit for it to return. Where it succeeds the
// context lives on, for a body that is read later, until its parent ends.
func briefly(ctx context.Context, limit time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { cancel(context.DeadlineExceeded) })
	err := try(ctx)
	late := !timer.Stop()
	if err != nil || late {
		cancel(nil)
		if late && (err == nil || errors.Is(err, context.Canceled)) {
			return context.DeadlineExceeded
		}
	}
	return err
}

// withOne calls op with a session. A session from the cache whose credentials
// are no longer accepted (the token was revoked, or the registry changed how
// it authenticates) is replaced once, for all that use it.
func (c *Client) withOne(ctx context.Context, t target, op func(context.Context, *session) error) error {
	s, reused, err := c.session(ctx, t)
	if err != nil {
		return err
	}
	err = op(ctx, s)
	if !reused || err == nil || examine(err).status != http.StatusUnauthorized {
		return err
	}
	c.drop(s)
	if s, _, err = c.session(ctx, t); err != nil {
		return err
	}
	return op(ctx, s)
}

// drop forgets a session that is not accepted any more, unless another has
// taken its place, and lets its credential be asked for anew.
func (c *Client) drop(s *session) {
	key := c.key(s.target)
	if now, ok := c.sessions.Peek(key); ok && now == s {
		c.sessions.Remove(key)
		c.logins.forget(s.cred)
	}
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
