package builds

import (
	"fmt"
	"time"
	"unique"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
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

// Refusal returns the *BusyError with which Apply would refuse a CreateBuild now, or nil if Apply
// would create a build or return an existing one. Time that passes may free an id, so Refusal may
// return nil for a command that Apply refuses with ErrTooManyRequests.
func (s *State) Refusal(c *buildsv1.CreateBuild) error {
	if c.RequestId != "" {
		if s.Request(c.Requester, c.RequestId) != nil {
			return nil
		}
		if _, _, generated := s.generatedByTime.Min(); !generated && s.level >= requestLimitLevel && s.requests.Len() >= s.requestLimit {
			return &BusyError{ErrTooManyRequests, maxRetryAfter}
		}
	}
	if s.Active(c.Ref) != nil {
		if r, err := s.Join(c.Ref, c.Source, c.Fresh); r != nil || err != nil {
			return nil
		}
	} else if r := s.Newest(c.Ref); r != nil && !c.Force && r.Build.Phase == Succeeded && r.EndedIndex > c.CheckedIndex {
		return nil
	}
	return s.queueRefusal(c.Requester)
}
