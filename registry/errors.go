package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Kind says why a call failed, in terms that a caller can act on.
type Kind int

// Kinds of errors. The zero Kind is no kind.
const (
	Invalid      Kind = iota + 1 // the reference, the platform or the request is malformed
	NotFound                     // the registry has no such image
	Unauthorized                 // the registry wants other credentials (401, 403)
	RateLimited                  // the registry wants fewer requests (429)
	Unavailable                  // the registry fails, does not answer, or answers nonsense
	Refused                      // the address rules forbid the connection
	TooLarge                     // the manifest is larger than any sane one
	Unsupported                  // the registry or the image is of a kind that is not handled
	PushRefused                  // the destination of a copy refused it: the install's fault, not the image's
)

// Error is the failure of one call. Its text and that of its cause are for
// people and hold no credentials, tokens or query strings.
type Error struct {
	Kind Kind
	// Op is a verb phrase, as in "resolve image".
	Op string
	// Ref is the reference that the call was about; empty where quoting it
	// could show a secret.
	Ref string
	// StatusCode is the registry's HTTP status, 0 if none is known.
	StatusCode int
	// Err is the cause. It matches context.Canceled and
	// context.DeadlineExceeded where those ended the call, and is a
	// *net.DNSError where the host's name does not exist.
	Err error
}

// Error tells what was tried, on what, and what happened.
func (e *Error) Error() string {
	if e.Ref == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %q: %v", e.Op, e.Ref, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf answers the kind of an error of this package, 0 for any other.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

// statusError is an HTTP answer that is not the one asked for.
type statusError struct {
	code  int
	codes []string      // error codes of the distribution specification
	after time.Duration // Retry-After, 0 if none
}

func (e *statusError) Error() string {
	detail := fmt.Sprint(e.code)
	if len(e.codes) > 0 {
		detail += " " + strings.Join(e.codes, ", ")
	}
	switch {
	case e.code == http.StatusNotFound:
		return fmt.Sprintf("not found in the registry (%s)", detail)
	case e.code == http.StatusUnauthorized, e.code == http.StatusForbidden:
		return fmt.Sprintf("access denied by the registry (%s); check the name and the credentials for its host", detail)
	case e.code == http.StatusTooManyRequests:
		return fmt.Sprintf("the registry limits the rate of requests (%s); try again later", detail)
	case e.code >= 500:
		return fmt.Sprintf("the registry fails (%s); try again later", detail)
	}
	return fmt.Sprintf("the registry gave an unexpected answer (%s)", detail)
}

// kindError is a failure of a kind that no status tells.
type kindError struct {
	kind Kind
	text string
	// temporary tells that asking again may help.
	temporary bool
}

func (e *kindError) Error() string { return e.text }

// brokenError is the end of a transfer that had begun: the registry was there.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }

// cause is an upstream error with a text that is safe to show. Only causes
// that are known to be safe stay reachable.
type cause struct {
	text string
	err  error
}

func (c *cause) Error() string { return c.text }
func (c *cause) Unwrap() error { return c.err }

// failure is what is known of an error from upstream.
type failure struct {
	kind      Kind
	status    int
	err       error
	temporary bool          // asking again may help
	after     time.Duration // not before this, 0 if unknown
	// away tells that the registry does not answer, or wants to be left alone:
	// who has time waits for it.
	away bool
}

// examine finds out what an error from upstream means, and makes its text
// safe: whatever holds a URL, an answer's body or one of the secrets loses it.
func examine(err error, secrets ...string) failure {
	var (
		status *statusError
		ggcr   *transport.Error
		kind   *kindError
		addr   *AddressError
		done   *Error
		rest   *restError
		pause  *pauseError
	)
	var broken *brokenError
	if errors.As(err, &broken) {
		f := examine(broken.error, secrets...)
		f.away = false
		return f
	}
	switch {
	case errors.As(err, &done):
		return failure{kind: done.Kind, status: done.StatusCode, err: done.Err}
	case errors.As(err, &kind):
		return failure{kind: kind.kind, err: kind, temporary: kind.temporary, away: kind.kind == RateLimited}
	case errors.As(err, &rest):
		return failure{kind: Unavailable, err: rest, temporary: true, after: rest.left, away: true}
	case errors.As(err, &pause):
		return failure{kind: RateLimited, err: pause, temporary: true, after: pause.left, away: true}
	case errors.As(err, &addr):
		return failure{kind: Refused, err: addr}
	case errors.As(err, &status):
		return ofStatus(status)
	case errors.As(err, &ggcr):
		return ofStatus(statusOf(ggcr))
	case errors.Is(err, context.Canceled):
		return failure{kind: Unavailable, err: &cause{"the request was cancelled", context.Canceled}}
	case errors.Is(err, context.DeadlineExceeded):
		return failure{kind: Unavailable, err: &cause{"the registry did not answer in time", context.DeadlineExceeded}, temporary: true, away: true}
	}
	unreachable := &cause{text: "the registry cannot be reached: " + safeText(err, secrets)}
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsNotFound {
		unreachable.err = &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	return failure{
		kind:      Unavailable,
		err:       unreachable,
		temporary: !permanent(err),
		away:      !permanent(err) && noAnswer(err),
	}
}

// statusOf keeps the status and the codes of go-containerregistry's error, and
// nothing of the answer's text.
func statusOf(err error) *statusError {
	var ggcr *transport.Error
	if !errors.As(err, &ggcr) {
		return &statusError{code: http.StatusUnauthorized}
	}
	e := &statusError{code: ggcr.StatusCode}
	for _, d := range ggcr.Errors {
		e.codes = appendCode(e.codes, string(d.Code))
	}
	return e
}

func ofStatus(e *statusError) failure {
	f := failure{kind: Unsupported, status: e.code, err: e, after: e.after}
	switch {
	case e.code == http.StatusNotFound:
		f.kind = NotFound
	case e.code == http.StatusUnauthorized, e.code == http.StatusForbidden:
		f.kind = Unauthorized
	case e.code == http.StatusTooManyRequests:
		f.kind, f.temporary, f.away = RateLimited, true, true
	case e.code >= 500, e.code == http.StatusRequestTimeout, e.code == http.StatusTooEarly:
		f.kind, f.temporary = Unavailable, true
		f.away = e.code == http.StatusBadGateway || e.code == http.StatusServiceUnavailable || e.code == http.StatusGatewayTimeout
	case e.code == http.StatusBadRequest:
		f.kind = Invalid
	}
	return f
}

// permanent reports errors of the connection that no retry cures.
func permanent(err error) bool {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		dns      *net.DNSError
	)
	if errors.As(err, &dns) {
		return dns.IsNotFound
	}
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &unknown) || errors.As(err, &hostname) || errors.As(err, &invalid) ||
		errors.As(err, &verify) || errors.As(err, &record)
}

// Away reports whether an error says that a registry cannot be asked now, and may
// be later: it does not answer, rests, or wants to be left alone.
func Away(err error) bool { return examine(err).away }

// noAnswer reports errors of a connection to a host that is not there, or goes
// away: not those of an answer that makes no sense.
func noAnswer(err error) bool {
	var (
		dns     *net.DNSError
		op      *net.OpError
		errno   syscall.Errno
		timeout interface{ Timeout() bool }
	)
	if errors.As(err, &op) && strings.HasSuffix(op.Op, " error") {
		return false // of TLS: it said what it does not like
	}
	return op != nil || errors.As(err, &dns) || errors.As(err, &errno) || errors.As(err, &timeout) && timeout.Timeout() ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

var errorCode = regexp.MustCompile(`^[A-Z][A-Z_]{0,39}$`)

// appendCode adds an error code of the distribution specification. Other text
// that a registry put in its place is dropped, as are more than three.
func appendCode(codes []string, code string) []string {
	if errorCode.MatchString(code) && len(codes) < 3 {
		return append(codes, code)
	}
	return codes
}
