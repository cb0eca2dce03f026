package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Login is what a Provider presents to a host. Never log it.
type Login struct {
	Username, Password string
	// IdentityToken takes the place of a password where a registry issues
	// refresh tokens, as Azure's does.
	IdentityToken string
	// Expires is when it ends; the zero time is a few minutes from now.
	Expires time.Time
}

// String hides the secrets from careless formatting.
func (l Login) String() string { return "registry credential of " + l.Username }

// GoString hides the secrets from careless formatting.
func (l Login) GoString() string { return l.String() }

// Provider makes credentials for the registries of one kind, from an identity
// that this process has. It is asked by several goroutines, and seldom: what
// it answers is kept until shortly before it ends.
type Provider interface {
	// Name is shown to people, as in "ecr".
	Name() string
	// Matches tells whether the provider is meant for a host. It compares
	// whole names: what it accepts gets a credential.
	Matches(host string) bool
	// Login makes a credential. It blocks no longer than its context allows.
	Login(ctx context.Context, host string) (Login, error)
}

const (
	// loginTime bounds one call of a provider or helper.
	loginTime = 10 * time.Second
	// loginKept is how long a credential without an end is used: helpers of
	// docker do not tell one, and the tokens that they print live for at least
	// an hour by Google's and Azure's documentation.
	loginKept = 5 * time.Minute
	// loginRetry is how long after a failure nobody is asked again, so that a
	// broken helper is not started for each request.
	loginRetry = 2 * time.Second
	maxLogins  = 512 // hosts come from requests
)

// logins keeps what providers and helpers answered.
type logins struct {
	flights *flights
	now     func() time.Time

	mu   sync.Mutex
	kept *lru.Cache[string, keptLogin]
}

type keptLogin struct {
	cred    credential
	err     error
	renew   time.Time // from here on it is asked for anew
	expires time.Time // until here it is good if that fails
}

func newLogins(f *flights) (*logins, error) {
	kept, err := lru.New[string, keptLogin](maxLogins)
	return &logins{flights: f, now: time.Now, kept: kept}, err
}

// get answers the credential that key stands for, from memory or by ask. All
// that want it while it is asked for get the one answer. One that is about to
// end is used on if renewing it fails.
func (l *logins) get(ctx context.Context, key string, ask func(context.Context) (Login, error)) (credential, error) {
	k, ok := l.current(key)
	if ok && l.now().Before(k.renew) {
		return k.cred, k.err
	}
	cred, err := merged(ctx, l.flights, "login\x00"+key, loginTime, func(ctx context.Context) (credential, error) {
		if k, ok := l.current(key); ok && l.now().Before(k.renew) {
			return k.cred, k.err // renewed between our look and our flight
		}
		return l.renew(ctx, key, ask)
	})
	if err != nil && ok && k.err == nil && l.now().Before(k.expires) {
		return k.cred, nil
	}
	return cred, err
}

func (l *logins) current(key string) (keptLogin, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept.Get(key)
}

func (l *logins) renew(ctx context.Context, key string, ask func(context.Context) (Login, error)) (credential, error) {
	login, err := ask(ctx)
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		old, ok := l.kept.Get(key)
		if ok && old.err == nil && now.Before(old.expires) {
			old.renew = now.Add(loginRetry)
			l.kept.Add(key, old)
			return old.cred, nil
		}
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			l.kept.Add(key, keptLogin{err: err, renew: now.Add(loginRetry)})
		}
		return credential{}, err
	}
	if login.Expires.IsZero() {
		login.Expires = now.Add(loginKept)
	}
	k := keptLogin{
		cred:    credential{username: login.Username, password: login.Password, identityToken: login.IdentityToken},
		expires: login.Expires,
	}
	k.renew = k.expires.Add(-lead(k.expires.Sub(now)))
	l.kept.Add(key, k)
	return k.cred, nil
}

// forget lets the next request ask anew: the registry has refused what is
// kept.
func (l *logins) forget(cred credential) {
	if cred.anonymous() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range l.kept.Keys() {
		if k, ok := l.kept.Peek(key); ok && k.err == nil && k.cred.same(cred) {
			l.kept.Remove(key)
		}
	}
}

// lead is how long before its end something that lives for that long is
// renewed: a tenth, at most half an hour, at least ten seconds or half.
func lead(life time.Duration) time.Duration {
	return max(min(life/10, 30*time.Minute), min(10*time.Second, life/2), 0)
}

// loginError says which provider or helper failed, and nothing of what it
// printed: that may be a secret.
func loginError(who string, err error) error {
	reason := "it failed"
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		reason = fmt.Sprintf("it did not answer within %s", loginTime)
	case errors.Is(err, context.Canceled):
		reason = "it was cancelled"
	default:
		var k *kindError
		if errors.As(err, &k) {
			reason = k.text
		}
	}
	return &kindError{kind: Unavailable, text: fmt.Sprintf("the credential from %s cannot be had: %s", who, reason)}
}
