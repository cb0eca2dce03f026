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

var errNoAnswer = errors.New("connection reset")

// ask sends one request through a gate and answers whether it was let in.
func ask(t *testing.T, g *breaker, outcome error) bool {
	t.Helper()
	leave, err := g.enter(t.Context(), "me", false)
	if err != nil {
		var rest *openError
		if !errors.As(err, &rest) {
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

func TestBreaker_RestsAfterUnansweredRequestsAndDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestBreaker(1)
		for i := range breakerThreshold {
			if !ask(t, g, errNoAnswer) {
				t.Fatalf("request %d was refused", i+1)
			}
		}
		for _, rest := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
			if ask(t, g, nil) || g.openFor() != rest {
				t.Fatalf("rests for %s, want %s", g.openFor(), rest)
			}
			time.Sleep(rest)
			if !ask(t, g, errNoAnswer) {
				t.Fatalf("not asked after %s", rest)
			}
		}
		time.Sleep(maxOpenDuration)
		leave, err := g.enter(t.Context(), "me", false)
		if err != nil {
			t.Fatal(err)
		}
		if ask(t, g, nil) {
			t.Error("a second request while one finds out")
		}
		leave(nil)
		for range breakerThreshold - 1 {
			ask(t, g, errNoAnswer)
		}
		if !ask(t, g, nil) {
			t.Error("rests though it answered in between")
		}
	})
}

func TestBreaker_AnswersAndOurOwnDoingAreNoReasonToRest(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	g := newTestBreaker(1)
	for range 3 * breakerThreshold {
		for _, err := range []error{&statusError{code: 503}, &AddressError{}, &kindError{}, &url.Error{Err: &sourceError{io.ErrUnexpectedEOF}}} {
			if !ask(t, g, err) {
				t.Fatalf("rests after %v", err)
			}
		}
		leave, err := g.enter(t.Context(), "me", true)
		if err != nil {
			t.Fatal(err)
		}
		leave(nil)
		if g.unanswered(cancelled, context.Canceled, time.Millisecond) {
			t.Fatal("a cancelled request counts")
		}
	}
}

func TestBreaker_LimitsConcurrencyAndRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestBreaker(2)
		a, _ := g.enter(t.Context(), "me", false)
		b, _ := g.enter(t.Context(), "me", false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.enter(ctx, "me", false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third request: %v", err)
		}
		if leave, err := g.enter(t.Context(), "me", true); err != nil {
			t.Errorf("an upload: %v", err)
		} else {
			leave(nil)
		}
		a(nil)
		b(nil)
		g.perSecond = func() float64 { return 2 }
		ask(t, g, nil)
		time.Sleep(time.Minute)
		start := time.Now()
		for range 5 {
			ask(t, g, nil)
		}
		if took := time.Since(start); took != 1500*time.Millisecond {
			t.Errorf("5 requests at 2 a second, 2 of them at once, took %s", took)
		}
	})
}
