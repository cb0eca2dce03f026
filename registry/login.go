package registry

import (
	"context"
	"errors"
	"fmt"
	"time"
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

// renewBefore returns how long before its end a token or login is renewed, for a given lifetime. It
// is a tenth of the lifetime, but at most 30 minutes and at least 10 seconds. For a lifetime below
// 20 seconds it is half of the lifetime.
func renewBefore(life time.Duration) time.Duration {
	return max(min(life/10, 30*time.Minute), min(10*time.Second, life/2), 0)
}
