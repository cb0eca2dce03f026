package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
)

// targetOf finds the credential for a repository and, if it is pulled from, its mirrors. Errors are
// *kindError.
func (c *Client) targetOf(ctx context.Context, named reference.Named, actions string, r Rights) (target, error) {
	t := target{host: reference.Domain(named), path: reference.Path(named), actions: actions}
	var err error
	if t.cred, err = c.credentialFor(ctx, t.host, t.path, r); err != nil || actions != pull {
		return t, err
	}
	for _, m := range c.hosts.mirrors[c.canonical(t.host)] {
		mt := target{host: m.host, path: m.repository(t.path), actions: pull}
		if mt.cred, err = c.credentialFor(ctx, mt.host, mt.path, r); err != nil {
			continue // already logged; the other mirrors and the host remain
		}
		t.mirrors = append(t.mirrors, mt)
	}
	return t, nil
}

// sessionKey returns the key of the session for a target: repository, scopes and credential.
func (c *Client) sessionKey(t target) string {
	return strings.Join([]string{"session", c.canonical(t.host), t.path, t.actions, t.from, t.cred.identity(c.salt)}, "\x00")
}

// sessionKeys returns the keys of a target and its mirrors in one string. Two targets with equal
// strings get equal results.
func (c *Client) sessionKeys(t target) string {
	out := c.sessionKey(t)
	for _, m := range t.mirrors {
		out += "\x00\x00" + c.sessionKey(m)
	}
	return out
}

// session returns a cached or new session for a target. reused reports that it was cached. With a
// trace in ctx, the session is always new and not cached.
func (c *Client) session(ctx context.Context, t target) (s *session, reused bool, err error) {
	if traceOf(ctx) != nil {
		s, err = c.newSession(ctx, t)
		return s, false, err
	}
	key := c.sessionKey(t)
	if s, ok := c.sessions.Get(key); ok && s.usable() {
		return s, true, nil
	}
	s, err = shareCall(ctx, c.calls, key, c.opts.Timeout/2, func(ctx context.Context) (*session, error) {
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

// checkRedirect bounds the number of redirects. The wire and the dialer decide where a redirect may
// lead. Credentials are sent only to the session's host.
func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return &kindError{kind: Unsupported, text: "the registry redirects more than 5 times"}
	}
	return nil
}

// withSession calls op with a session of each mirror in turn until a call succeeds; if none does,
// with a session of the host itself. A mirror gets only a part of the client's Timeout.
func (c *Client) withSession(ctx context.Context, t target, op func(context.Context, *session) error) error {
	for _, m := range t.mirrors {
		err := withReturnTimeout(ctx, c.opts.Timeout/mirrorTimeoutDivisor, func(ctx context.Context) error { return c.withHostSession(ctx, m, op) })
		if err == nil || ctx.Err() != nil {
			return err
		}
		traceOf(ctx).recordError(m, err)
		c.opts.Logger.Debug("a mirror failed", "mirror", m.host, "host", t.host, "err", examine(err, m.secrets()...).err)
	}
	err := c.withHostSession(ctx, t, op)
	if err != nil {
		traceOf(ctx).recordError(t, err)
	}
	return err
}

// withReturnTimeout calls try and cancels its context if try has not returned after timeout. If try
// succeeds in time, its context stays valid until ctx ends, because a response body may be read
// later.
func withReturnTimeout(ctx context.Context, timeout time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(timeout, func() { cancel(context.DeadlineExceeded) })
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

// withHostSession calls op with a session of the target's host. If the host refuses a cached
// session, because its token was revoked or the registry changed its authentication, the session is
// replaced once and op is called again.
func (c *Client) withHostSession(ctx context.Context, t target, op func(context.Context, *session) error) error {
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

// drop removes a refused session from the cache, unless it has been replaced already, and lets its
// credential be fetched again.
func (c *Client) drop(s *session) {
	key := c.sessionKey(s.target)
	if now, ok := c.sessions.Peek(key); ok && now == s {
		c.sessions.Remove(key)
		c.logins.forget(s.cred)
	}
}

// run runs op on a target with retries (see retry and withSession). Each try is bounded by half of
// the client's Timeout, so that one lost connection does not use up all of it.
func (c *Client) run(ctx context.Context, t target, op func(context.Context, *session) error) error {
	return c.retry(ctx, c.opts.Timeout/2, nil, func(ctx context.Context) error { return c.withSession(ctx, t, op) })
}
