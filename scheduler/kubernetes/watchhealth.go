package kubernetes

import (
	"sync"
	"time"
)

// watchErrorTTL is how long an error of the watch counts. The watch retries within about half a
// minute.
const watchErrorTTL = 45 * time.Second

// watchHealth holds the last error of the watch.
type watchHealth struct {
	mu       sync.Mutex
	err      error
	failedAt time.Time
}

func (t *watchHealth) recordError(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err, t.failedAt = err, time.Now()
}
