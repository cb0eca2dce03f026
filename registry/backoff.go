package registry

import "time"

const maxPause = 5 * time.Second // upper bound of the exponential back-off

// backoff returns base doubled n times, at most maxPause. The second half of it is scaled by random
// in [0, 1).
func backoff(base time.Duration, n int, random float64) time.Duration {
	d := maxPause
	if n < 16 {
		d = min(base<<n, maxPause)
	}
	return d/2 + time.Duration(random*float64(d/2))
}
