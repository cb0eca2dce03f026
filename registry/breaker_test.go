package registry

import (
	"context"
	"errors"
	"io"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

var errNoResponse = errors.New("connection reset")

// send sends one request through a breaker and reports whether it was let through.
func send(t *testing.T, br *breaker, outcome error) bool {
	t.Helper()
	leave, err := br.enter(t.Context(), "me", false)
	if err != nil {
		var open *openError
		if !errors.As(err, &open) {
			t.Fatalf("refused by %v", err)
		}
		return false
	}
	leave(outcome)
	return true
}

func newTestBreaker(atATime int) *breaker {
	return &breaker{
		host: "h", slots: &semaphore{limit: func() int { return atATime }}, perSecond: func() float64 { return 0 }, rate: rate.NewLimiter(rate.Inf, 0),
		pauses: pauses{base: time.Second}, slow: time.Second, now: time.Now,
	}
}

func TestBreaker_OpensAfterUnansweredRequestsAndDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := newTestBreaker(1)
		for i := range breakerThreshold {
			if !send(t, br, errNoResponse) {
				t.Fatalf("request %d was refused", i+1)
			}
		}
		for _, open := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
			if send(t, br, nil) || br.openFor() != open {
				t.Fatalf("open for %s, want %s", br.openFor(), open)
			}
			time.Sleep(open)
			if !send(t, br, errNoResponse) {
				t.Fatalf("no request was let through after %s", open)
			}
		}
		time.Sleep(maxOpenDuration)
		leave, err := br.enter(t.Context(), "me", false)
		if err != nil {
			t.Fatal(err)
		}
		if send(t, br, nil) {
			t.Error("a second request was let through in the half-open state")
		}
		leave(nil)
		for range breakerThreshold - 1 {
			send(t, br, errNoResponse)
		}
		if !send(t, br, nil) {
			t.Error("opened although there was a response in between")
		}
	})
}

func TestBreaker_StaysClosedAfterResponsesAndOwnErrors(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	br := newTestBreaker(1)
	for range 3 * breakerThreshold {
		for _, err := range []error{&statusError{code: 503}, &AddressError{}, &kindError{}, &url.Error{Err: &sourceError{io.ErrUnexpectedEOF}}} {
			if !send(t, br, err) {
				t.Fatalf("opened after %v", err)
			}
		}
		leave, err := br.enter(t.Context(), "me", true)
		if err != nil {
			t.Fatal(err)
		}
		leave(nil)
		if br.unanswered(cancelled, context.Canceled, time.Millisecond) {
			t.Fatal("a cancelled request counts")
		}
	}
}

func TestBreaker_LimitsConcurrencyAndRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := newTestBreaker(2)
		a, _ := br.enter(t.Context(), "me", false)
		b, _ := br.enter(t.Context(), "me", false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := br.enter(ctx, "me", false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third request: %v", err)
		}
		if leave, err := br.enter(t.Context(), "me", true); err != nil {
			t.Errorf("an upload: %v", err)
		} else {
			leave(nil)
		}
		a(nil)
		b(nil)
		br.perSecond = func() float64 { return 2 }
		send(t, br, nil)
		time.Sleep(time.Minute)
		start := time.Now()
		for range 5 {
			send(t, br, nil)
		}
		if took := time.Since(start); took != 1500*time.Millisecond {
			t.Errorf("5 requests at 2 a second, 2 of them at once, took %s", took)
		}
	})
}
