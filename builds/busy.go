package builds

import (
	"fmt"
	"time"
	"unique"
)

// BusyError refuses a build for now. Err is ErrQueueFull, ErrRequesterQueueFull or
// ErrTooManyRequests.
type BusyError struct {
	Err error
	// RetryAfter is the time after which a repeated request probably succeeds, in whole seconds.
	RetryAfter time.Duration
}

// Error returns the reason and the time.
func (e *BusyError) Error() string { return fmt.Sprintf("%v; try again in %s", e.Err, e.RetryAfter) }

// Unwrap returns the reason.
func (e *BusyError) Unwrap() error { return e.Err }

const (
	// paceSample is how many of the last ended builds show how fast builds end.
	paceSample = 16
	// minRetryAfter and maxRetryAfter limit the time after which a client should repeat a refused
	// request. defaultRetryAfter is the time if no builds have ended lately.
	minRetryAfter     = time.Second
	maxRetryAfter     = time.Minute
	defaultRetryAfter = 10 * time.Second
)

// queueRefusal returns the reason why a new build of a requester is refused now, or nil.
func (s *State) queueRefusal(requester string) error {
	if limit := s.settings.QueueTotal; limit > 0 && s.queued.Len() >= int(limit) {
		return &BusyError{ErrQueueFull, s.retryAfter(s.history, &entry{ended: lastIndex})}
	}
	limit := s.settings.QueuePerRequester
	if s.level >= requesterQueueLevel && limit > 0 && s.Waiting(requester) >= int(limit) {
		return &BusyError{ErrRequesterQueueFull, s.retryAfter(s.historyByRequester, &entry{ended: lastIndex, requester: unique.Make(requester)})}
	}
	return nil
}

// retryAfter returns the time after which a build probably starts, so that another one can be
// queued: the mean time between the ends of the last builds in a history, those of the requester of
// last if it has one.
func (s *State) retryAfter(history *tree[*entry], last *entry) time.Duration {
	var first int64
	n := 0
	history.Descend(last, func(e *entry) bool {
		if last.requester != (unique.Handle[string]{}) && e.requester != last.requester {
			return false
		}
		first = e.get().Build.EndedAt.AsTime().UnixNano()
		n++
		return n < paceSample
	})
	if n < 2 {
		return defaultRetryAfter
	}
	return min(max(time.Duration(s.time-first)/time.Duration(n), minRetryAfter), maxRetryAfter).Round(time.Second)
}
