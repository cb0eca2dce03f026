package registry

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// respond lets a breaker observe a response to a request that is sent now.
func respond(br *breaker, identity string, status int, retryAfter string) {
	resp := &http.Response{StatusCode: status, Header: http.Header{}}
	if retryAfter != "" {
		resp.Header.Set("Retry-After", retryAfter)
	}
	br.pauses.observe(identity, resp, time.Now(), time.Now())
}

// pauseLeft returns how long the breaker refuses requests of a caller because of a pause.
func pauseLeft(t *testing.T, br *breaker, identity string) time.Duration {
	t.Helper()
	leave, err := br.enter(t.Context(), identity, false)
	var pause *pauseError
	if errors.As(err, &pause) {
		return pause.left
	}
	if err != nil {
		t.Fatal(err)
	}
	leave(nil)
	return 0
}

// TestPauses_HoldForAllCallersOfTheHost expects a pause that one caller was asked for to hold for
// all callers of the host, but a long one only for the same credential.
func TestPauses_HoldForAllCallersOfTheHost(t *testing.T) {
	for name, c := range map[string]struct {
		status     int
		after      string
		me, others time.Duration
	}{
		"429 with seconds":     {429, "3", 3 * time.Second, 3 * time.Second},
		"503 with seconds":     {503, "3", 3 * time.Second, 3 * time.Second},
		"429 with an hour":     {429, "3600", time.Hour, maxSharedPause},
		"429 with a day":       {429, "86400", time.Hour, maxSharedPause},
		"503 with nothing":     {503, "", 0, 0},
		"500 with seconds":     {500, "3", 0, 0},
		"success with seconds": {200, "3", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				br := newTestBreaker(8)
				respond(br, "me", c.status, c.after)
				for identity, want := range map[string]time.Duration{"me": c.me, "other": c.others} {
					if got := pauseLeft(t, br, identity); got != want {
						t.Errorf("%s waits for %s, want %s", identity, got, want)
					}
				}
				time.Sleep(c.others)
				if got := pauseLeft(t, br, "other"); got != 0 {
					t.Errorf("another waits for a further %s", got)
				}
				time.Sleep(c.me - c.others)
				if got := pauseLeft(t, br, "me"); got != 0 {
					t.Errorf("the caller that was asked waits for a further %s", got)
				}
			})
		})
	}
}

// TestPauses_WithoutRetryAfterAllBackOffTogether expects many simultaneous responses with 429 to
// cause one back-off, the next one to be longer, and a success to reset them.
func TestPauses_WithoutRetryAfterAllBackOffTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := newTestBreaker(8)
		for _, most := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
			for range 64 {
				respond(br, "me", 429, "")
			}
			pause := pauseLeft(t, br, "other")
			if pause < most/2 || pause > most {
				t.Fatalf("a pause of %s, want %s to %s", pause, most/2, most)
			}
			time.Sleep(pause)
			if got := pauseLeft(t, br, "other"); got != 0 {
				t.Fatalf("a further %s after the pause", got)
			}
		}
		time.Sleep(time.Nanosecond)
		respond(br, "me", 200, "")
		respond(br, "me", 429, "")
		if pause := pauseLeft(t, br, "me"); pause > time.Second {
			t.Errorf("%s after a success", pause)
		}
	})
}

// TestPauses_HoldForThoseWhoWaitedForASlot begins a pause while callers wait for a slot, and
// expects the pause to hold for them.
func TestPauses_HoldForThoseWhoWaitedForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		br := newTestBreaker(1)
		leave, err := br.enter(t.Context(), "me", false)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if left := pauseLeft(t, br, "other"); left != 2*time.Second {
					t.Errorf("%s left of the pause", left)
				}
			})
		}
		synctest.Wait()
		respond(br, "me", 429, "2")
		leave(&statusError{code: 429})
		wg.Wait()
		if br.slots.used != 0 {
			t.Errorf("%d slots are lost", br.slots.used)
		}
	})
}

// TestPauses_AreBounded lets many credentials get a pause, as requests may bring any number of
// them.
func TestPauses_AreBounded(t *testing.T) {
	br := newTestBreaker(1)
	for i := range 10 * maxPauses {
		respond(br, fmt.Sprint("caller ", i), 429, "60")
	}
	if n := len(br.pauses.until); n > maxPauses+2 {
		t.Errorf("%d pauses are kept", n)
	}
}
