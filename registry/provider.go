package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Login is a credential that a Provider or helper returns. It must not be logged.
type Login struct {
	Username, Password string
	// IdentityToken replaces the password at registries that issue refresh tokens, such as Azure's.
	IdentityToken string
	// Expires is when the login ends. The zero time means that its end is unknown; it is then used
	// for five minutes.
	Expires time.Time
}

// String hides the secrets from careless formatting.
func (l Login) String() string { return "registry credential of " + l.Username }

// GoString hides the secrets from careless formatting.
func (l Login) GoString() string { return l.String() }

// Provider makes credentials for one kind of registry from an identity of this process. It is
// called by several goroutines but rarely: its logins are cached until shortly before they expire.
type Provider interface {
	// Name is shown to people, as in "ecr".
	Name() string
	// Matches reports whether the provider is for a host. It must compare whole names, because the
	// host receives the credential.
	Matches(host string) bool
	// Login makes a credential. It must return when ctx ends.
	Login(ctx context.Context, host string) (Login, error)
}

const (
	// loginTimeout bounds one call of a provider or helper.
	loginTimeout = 10 * time.Second
	// defaultLoginLife is how long a credential without an expiry is used. Docker's helpers return
	// no expiry. By the documentation of Google and Azure, the tokens that they print live for at
	// least an hour.
	defaultLoginLife = 5 * time.Minute
	// loginRetryInterval is the pause after a failed call, so that a broken helper is not started
	// for each request.
	loginRetryInterval = 2 * time.Second
	maxLogins          = 512 // bounds the cache; hosts come from requests
)

// loginCache caches the results of providers and helpers.
type loginCache struct {
	calls *callGroup
	now   func() time.Time

	mu      sync.Mutex
	entries *lru.Cache[string, cachedLogin]
}

// cachedLogin is a login, or the error of getting one.
type cachedLogin struct {
	cred    credential
	err     error
	renew   time.Time // from this time on, the next caller renews it
	expires time.Time // until this time it is used if the renewal fails
}

func newLoginCache(f *callGroup) (*loginCache, error) {
	entries, err := lru.New[string, cachedLogin](maxLogins)
	return &loginCache{calls: f, now: time.Now, entries: entries}, err
}

// get returns the credential for key, from the cache or by fetch. Simultaneous callers share one
// call of fetch. If a renewal fails, get returns the old login until it expires.
func (l *loginCache) get(ctx context.Context, key string, fetch func(context.Context) (Login, error)) (credential, error) {
	k, ok := l.current(key)
	if ok && l.now().Before(k.renew) {
		return k.cred, k.err
	}
	cred, err := shareCall(ctx, l.calls, "login\x00"+key, loginTimeout, func(ctx context.Context) (credential, error) {
		if k, ok := l.current(key); ok && l.now().Before(k.renew) {
			return k.cred, k.err // another caller has renewed it since the first check
		}
		return l.renew(ctx, key, fetch)
	})
	if err != nil && ok && k.err == nil && l.now().Before(k.expires) {
		return k.cred, nil
	}
	return cred, err
}

// current returns the entry for key, which may have to be renewed.
func (l *loginCache) current(key string) (cachedLogin, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries.Get(key)
}

// renew calls fetch and caches its result. A failure is cached for loginRetryInterval.
func (l *loginCache) renew(ctx context.Context, key string, fetch func(context.Context) (Login, error)) (credential, error) {
	login, err := fetch(ctx)
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		old, ok := l.entries.Get(key)
		if ok && old.err == nil && now.Before(old.expires) {
			old.renew = now.Add(loginRetryInterval)
			l.entries.Add(key, old)
			return old.cred, nil
		}
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			l.entries.Add(key, cachedLogin{err: err, renew: now.Add(loginRetryInterval)})
		}
		return credential{}, err
	}
	if login.Expires.IsZero() {
		login.Expires = now.Add(defaultLoginLife)
	}
	k := cachedLogin{
		cred:    credential{username: login.Username, password: login.Password, identityToken: login.IdentityToken},
		expires: login.Expires,
	}
	k.renew = k.expires.Add(-renewBefore(k.expires.Sub(now)))
	l.entries.Add(key, k)
	return k.cred, nil
}

// forget removes a credential from the cache, because a registry has refused it.
func (l *loginCache) forget(cred credential) {
	if cred.anonymous() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range l.entries.Keys() {
		if k, ok := l.entries.Peek(key); ok && k.err == nil && k.cred.same(cred) {
			l.entries.Remove(key)
		}
	}
}

// renewBefore returns how long before its end a token or login is renewed, for a given lifetime. It
// is a tenth of the lifetime, but at most 30 minutes and at least 10 seconds. For a lifetime below
// 20 seconds it is half of the lifetime.
func renewBefore(life time.Duration) time.Duration {
	return max(min(life/10, 30*time.Minute), min(10*time.Second, life/2), 0)
}

// loginError names the provider or helper that failed. It contains no output of the helper, because
// that may be a secret.
func loginError(origin string, err error) error {
	reason := "it failed"
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		reason = fmt.Sprintf("it did not respond within %s", loginTimeout)
	case errors.Is(err, context.Canceled):
		reason = "it was cancelled"
	default:
		var k *kindError
		if errors.As(err, &k) {
			reason = k.text
		}
	}
	return &kindError{kind: Unavailable, text: fmt.Sprintf("cannot get the credential from %s: %s", origin, reason)}
}
