package registry

import (
	"context"
	"errors"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
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
