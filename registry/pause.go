package registry

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

const (
	// everyonesPause is as long as callers with other credentials wait because
	// of what one was told. Registries bound the requests of an address in
	// seconds, and what an account may pull in hours: whoever has used up an
	// account must not stop all others.
	everyonesPause = maxPause
	// pauseSpread is the most by which the callers are spread who waited for the
	// end of one pause.
	pauseSpread = 5 * time.Second
	maxPauses   = 256 // of one host; credentials come from requests
)

// pauses are what a host has asked for: by Retry-After (RFC 9110, section
// 10.2.3), or by a 429 without one (RFC 6585, section 4), which is answered by
// a back-off of all its callers together.
type pauses struct {
	base time.Duration // of the back-off

	mu    sync.Mutex
	until map[string]time.Time // by caller, "" for all
	begun time.Time            // when the last back-off began
	times int                  // back-offs in a row
}

// pauseError says that a host is not asked because it wants to be left alone.
type pauseError struct {
	host string
	left time.Duration
}

func (e *pauseError) Error() string {
	return fmt.Sprintf("%s limits the rate of requests; it asked not to be asked again for another %s", e.host, max(e.left.Round(100*time.Millisecond), 100*time.Millisecond))
}

// left is how long a caller has to wait yet. who names its credential.
func (p *pauses) left(who string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.until[""].Sub(now), p.until[who].Sub(now), 0)
}

// answered takes note of an answer to a request that was sent at a time.
func (p *pauses) answered(who string, resp *http.Response, sent, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	told := retryAfter(resp.Header.Get("Retry-After"), now)
	switch {
	case resp.StatusCode < 400 && sent.After(p.begun):
		p.times = 0
	case told > 0 && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable):
		p.pause(who, told, now)
	case resp.StatusCode == http.StatusTooManyRequests && (p.begun.IsZero() || sent.After(p.begun)):
		// Many may be told at once: those who asked before this back-off began
		// make it no longer.
		p.pause(who, backoff(p.base, p.times, rand.Float64()), now)
		p.begun, p.times = now, p.times+1
	}
}

func (p *pauses) pause(who string, d time.Duration, now time.Time) {
	for w, t := range p.until {
		if !t.After(now) || len(p.until) > maxPauses {
			delete(p.until, w)
		}
	}
	if p.until == nil {
		p.until = map[string]time.Time{}
	}
	for w, d := range map[string]time.Duration{"": min(d, everyonesPause), who: d} {
		if end := now.Add(d); end.After(p.until[w]) {
			p.until[w] = end
		}
	}
}

// spread is how much later than the end of a pause a caller asks that waited
// for it: at most a quarter of the pause.
func spread(pause time.Duration) time.Duration {
	return time.Duration(rand.Float64() * float64(min(pause/4, pauseSpread)))
}
