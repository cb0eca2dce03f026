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

// Kind classifies why a call failed, in terms that a caller can act on.
type Kind int

// Kinds of errors. The zero Kind means that the error has no kind.
const (
	Invalid      Kind = iota + 1 // the reference, the platform or the request is malformed
	NotFound                     // the registry has no such image
	Unauthorized                 // the registry requires other credentials (401, 403)
	RateLimited                  // the registry limits the rate of requests (429)
	Unavailable                  // the registry fails, does not respond, or sends invalid responses
	Refused                      // the address rules forbid the connection
	TooLarge                     // the manifest is larger than 8 MiB
	Unsupported                  // the registry or the image has a form that is not supported
	PushRefused                  // the destination of a copy refused it: a problem of the install, not of the image
)

// Error is the failure of one call. Its text and the text of its cause are for people and contain
// no credentials, tokens or query strings.
type Error struct {
	Kind Kind
	// Op is a verb phrase, as in "resolve image".
	Op string
	// Ref is the reference of the call; empty if quoting it could show a secret.
	Ref string
	// StatusCode is the registry's HTTP status, 0 if none is known.
	StatusCode int
	// Err is the cause. It matches context.Canceled and context.DeadlineExceeded if those ended the
	// call, and is a *net.DNSError if the host's name does not exist.
	Err error
}

// Error names the operation, the reference and the cause.
func (e *Error) Error() string {
	if e.Ref == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %q: %v", e.Op, e.Ref, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of an error of this package, and 0 for any other error.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

// statusError is an HTTP response with an unexpected status.
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
	return fmt.Sprintf("the registry sent an unexpected response (%s)", detail)
}

// kindError is a failure that has no HTTP status.
type kindError struct {
	kind Kind
	text string
	// temporary reports that a retry may help.
	temporary bool
}

func (e *kindError) Error() string { return e.text }

// brokenError is a transfer that broke off after it had begun. It does not count as NotReady,
// because the registry had responded.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }

// cause is an upstream error with a text that is safe to show. Unwrap reaches only causes that are
// known to be safe.
type cause struct {
	text string
	err  error
}

func (c *cause) Error() string { return c.text }

func (c *cause) Unwrap() error { return c.err }

// failure is the analysis of an upstream error.
type failure struct {
	kind      Kind
	status    int
	err       error
	temporary bool          // a retry may help
	after     time.Duration // no retry before this pause; 0 if unknown
	// notReady reports that the registry does not respond or limits the rate of requests. Callers
	// that have time wait until it is ready.
	notReady bool
}

// examine analyzes an upstream error and makes its text safe: URLs, response bodies and the given
// secrets are removed.
func examine(err error, secrets ...string) failure {
	var (
		status *statusError
		ggcr   *transport.Error
		kind   *kindError
		addr   *AddressError
		done   *Error
		open   *openError
		pause  *pauseError
	)
	var broken *brokenError
	if errors.As(err, &broken) {
		f := examine(broken.error, secrets...)
		f.notReady = false
		return f
	}
	switch {
	case errors.As(err, &done):
		return failure{kind: done.Kind, status: done.StatusCode, err: done.Err}
	case errors.As(err, &kind):
		return failure{kind: kind.kind, err: kind, temporary: kind.temporary, notReady: kind.kind == RateLimited}
	case errors.As(err, &open):
		return failure{kind: Unavailable, err: open, temporary: true, after: open.left, notReady: true}
	case errors.As(err, &pause):
		return failure{kind: RateLimited, err: pause, temporary: true, after: pause.left, notReady: true}
	case errors.As(err, &addr):
		return failure{kind: Refused, err: addr}
	case errors.As(err, &status):
		return ofStatus(status)
	case errors.As(err, &ggcr):
		return ofStatus(statusOf(ggcr))
	case errors.Is(err, context.Canceled):
		return failure{kind: Unavailable, err: &cause{"the request was cancelled", context.Canceled}}
	case errors.Is(err, context.DeadlineExceeded):
		return failure{kind: Unavailable, err: &cause{"the registry did not respond in time", context.DeadlineExceeded}, temporary: true, notReady: true}
	}
	unreachable := &cause{text: "the registry cannot be reached: " + safeText(err, secrets)}
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsNotFound {
		unreachable.err = &net.DNSError{Err: "no such host", IsNotFound: true}
	}
	return failure{
		kind:      Unavailable,
		err:       unreachable,
		temporary: !permanent(err),
		notReady:  !permanent(err) && noResponse(err),
	}
}

// statusOf keeps the status and the error codes of go-containerregistry's error, and no text of the
// response.
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
		f.kind, f.temporary, f.notReady = RateLimited, true, true
	case e.code >= 500, e.code == http.StatusRequestTimeout, e.code == http.StatusTooEarly:
		f.kind, f.temporary = Unavailable, true
		f.notReady = e.code == http.StatusBadGateway || e.code == http.StatusServiceUnavailable || e.code == http.StatusGatewayTimeout
	case e.code == http.StatusBadRequest:
		f.kind = Invalid
	}
	return f
}

// permanent reports whether a connection error persists, so that a retry does not help.
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

// NotReady reports whether err means that a registry cannot be used now but may be later: it does
// not respond, its circuit breaker is open, or it limits the rate of requests.
func NotReady(err error) bool { return examine(err).notReady }

// noResponse reports whether a connection error means that the host is not reachable or closed the
// connection, and not that it sent an invalid response.
func noResponse(err error) bool {
	var (
		dns     *net.DNSError
		op      *net.OpError
		errno   syscall.Errno
		timeout interface{ Timeout() bool }
	)
	if errors.As(err, &op) && strings.HasSuffix(op.Op, " error") {
		return false // an alert of TLS, which is a response
	}
	return op != nil || errors.As(err, &dns) || errors.As(err, &errno) || errors.As(err, &timeout) && timeout.Timeout() ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

var errorCode = regexp.MustCompile(`^[A-Z][A-Z_]{0,39}$`)

// appendCode adds an error code of the distribution specification. It drops other text that a
// registry sent in its place, and every code after the third.
func appendCode(codes []string, code string) []string {
	if errorCode.MatchString(code) && len(codes) < 3 {
		return append(codes, code)
	}
	return codes
}

const (
	// breakerThreshold is the number of consecutive requests without a response after which the
	// circuit breaker of a host opens.
	breakerThreshold = 5
	// A breaker is open for minOpenDuration at first. The duration doubles each time up to
	// maxOpenDuration.
	minOpenDuration = time.Second
	maxOpenDuration = 30 * time.Second
	// maxBreakers bounds the number of hosts. Requests may name any number of hosts.
	maxBreakers = 512
)

// openError reports that a request was not sent because the host's circuit breaker is open.
type openError struct {
	host string
	left time.Duration
}

func (e *openError) Error() string {
	return fmt.Sprintf("%s did not answer the last %d requests; it is asked again in %s", e.host, breakerThreshold, e.left.Round(100*time.Millisecond))
}

// pauseError reports that a request was not sent because the host asked for a pause.
type pauseError struct {
	host string
	left time.Duration
}

func (e *pauseError) Error() string {
	return fmt.Sprintf("%s limits the rate of requests; it asked not to be asked again for another %s", e.host, max(e.left.Round(100*time.Millisecond), 100*time.Millisecond))
}

// sourceError marks an upload that failed because its source failed. It says nothing about the
// destination.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }
