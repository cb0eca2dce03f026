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

// told lets a gate see an answer to a request that who sends now.
func told(g *breaker, who string, status int, retryAfter string) {
	resp := &http.Response{StatusCode: status, Header: http.Header{}}
	if retryAfter != "" {
		resp.Header.Set("Retry-After", retryAfter)
	}
	g.pauses.observe(who, resp, time.Now(), time.Now())
}

// pausing is how long who is not let in yet.
func pausing(t *testing.T, g *breaker, who string) time.Duration {
	t.Helper()
	leave, err := g.enter(t.Context(), who, false)
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

// TestPauses_HoldForAllCallersOfTheHost: what one is told holds for all, for
// long only where the credential is the same.
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
				g := newTestBreaker(8)
				told(g, "me", c.status, c.after)
				for who, want := range map[string]time.Duration{"me": c.me, "other": c.others} {
					if got := pausing(t, g, who); got != want {
						t.Errorf("%s waits for %s, want %s", who, got, want)
					}
				}
				time.Sleep(c.others)
				if got := pausing(t, g, "other"); got != 0 {
					t.Errorf("another waits for a further %s", got)
				}
				time.Sleep(c.me - c.others)
				if got := pausing(t, g, "me"); got != 0 {
					t.Errorf("the one that was told waits for a further %s", got)
				}
			})
		})
	}
}

// TestPauses_WithoutRetryAfterAllBackOffTogether: what many are told at once is
// one back-off, the next is longer, and a success ends the series.
func TestPauses_WithoutRetryAfterAllBackOffTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestBreaker(8)
		for _, most := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
			for range 64 {
				told(g, "me", 429, "")
			}
			pause := pausing(t, g, "other")
			if pause < most/2 || pause > most {
				t.Fatalf("a pause of %s, want %s to %s", pause, most/2, most)
			}
			time.Sleep(pause)
			if got := pausing(t, g, "other"); got != 0 {
				t.Fatalf("a further %s after the pause", got)
			}
		}
		time.Sleep(time.Nanosecond)
		told(g, "me", 200, "")
		told(g, "me", 429, "")
		if pause := pausing(t, g, "me"); pause > time.Second {
			t.Errorf("%s after a success", pause)
		}
	})
}

// TestPauses_HoldForThoseWhoWaitedForASlot: one who was let wait by the limits
// is not sent into a pause that began meanwhile.
func TestPauses_HoldForThoseWhoWaitedForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestBreaker(1)
		leave, err := g.enter(t.Context(), "me", false)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if left := pausing(t, g, "other"); left != 2*time.Second {
					t.Errorf("%s left of the pause", left)
				}
			})
		}
		synctest.Wait()
		told(g, "me", 429, "2")
		leave(&statusError{code: 429})
		wg.Wait()
		if g.slots.used != 0 {
			t.Errorf("%d slots are lost", g.slots.used)
		}
	})
}

// TestPauses_AreBounded: credentials come from requests.
func TestPauses_AreBounded(t *testing.T) {
	g := newTestBreaker(1)
	for i := range 10 * maxPauses {
		told(g, fmt.Sprint("caller ", i), 429, "60")
	}
	if n := len(g.pauses.until); n > maxPauses+2 {
		t.Errorf("%d pauses are remembered", n)
	}
}
