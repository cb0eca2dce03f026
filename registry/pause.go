package registry

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// maxSharedPause bounds how long callers with other credentials wait for a pause that the host
	// requested from one caller. Registries limit the requests of an address per second, but the
	// pulls of an account per hour: an account that has used up its pulls must not stop others.
	maxSharedPause = maxPause
	// maxSpread bounds the random delay after a pause (see spread).
	maxSpread = 5 * time.Second
	// maxPauses bounds the pauses of one host. Credentials come from requests.
	maxPauses = 256
)

// pauses are the pauses that a host asked for. A host asks by Retry-After (RFC 9110, section
// 10.2.3), or by status 429 without one (RFC 6585, section 4). In the second case all callers of
// the host back off together.
type pauses struct {
	base time.Duration // of the back-off

	mu    sync.Mutex
	until map[string]time.Time // by credential identity, "" for all
	begun time.Time            // when the last back-off began
	times int                  // back-offs in a row
}

// left returns how long a caller still has to pause. identity identifies its credential.
func (p *pauses) left(identity string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.until[""].Sub(now), p.until[identity].Sub(now), 0)
}

// observe updates the pauses after a response. sent is when the request was sent.
func (p *pauses) observe(identity string, resp *http.Response, sent, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	after := retryAfter(resp.Header.Get("Retry-After"), now)
	switch {
	case resp.StatusCode < 400 && sent.After(p.begun):
		p.times = 0
	case after > 0 && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable):
		p.pause(identity, after, now)
	case resp.StatusCode == http.StatusTooManyRequests && (p.begun.IsZero() || sent.After(p.begun)):
		// Many requests may get 429 at the same time. Requests that were sent before this back-off
		// began do not extend it.
		p.pause(identity, backoff(p.base, p.times, rand.Float64()), now)
		p.begun, p.times = now, p.times+1
	}
}

// pause begins or extends a pause of duration d for one credential, and one of at most
// maxSharedPause for all others. The caller holds mu.
func (p *pauses) pause(identity string, d time.Duration, now time.Time) {
	for w, t := range p.until {
		if !t.After(now) || len(p.until) > maxPauses {
			delete(p.until, w)
		}
	}
	if p.until == nil {
		p.until = map[string]time.Time{}
	}
	for w, d := range map[string]time.Duration{"": min(d, maxSharedPause), identity: d} {
		if end := now.Add(d); end.After(p.until[w]) {
			p.until[w] = end
		}
	}
}

// spread returns a random delay of at most a quarter of the pause and at most maxSpread. Callers
// that waited for the end of one pause add it, so that they do not all send at the same moment.
func spread(pause time.Duration) time.Duration {
	return time.Duration(rand.Float64() * float64(min(pause/4, maxSpread)))
}

// retryAfter parses a Retry-After header (RFC 9110, section 10.2.3), which is in seconds or a date.
// The result is at most an hour; 0 for none.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil && seconds > 0 {
		return min(time.Duration(seconds), 3600) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(max(0, at.Sub(now)), time.Hour)
	}
	return 0
}
