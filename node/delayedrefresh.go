package node

import (
	"slices"
	"sync"
	"time"
)

// repeatDelays are the times after a notification at which its references are refreshed again.
// Distribution (2.8, handlers/manifests.go) notifies before it sets the tag, so that an immediate
// refresh may find the former digest. The second delay is for slow storage.
var repeatDelays = [...]time.Duration{time.Second, 10 * time.Second}

// delayedRefreshes are the references that are to be refreshed again, with their times. The zero
// value is empty.
type delayedRefreshes struct {
	mu  sync.Mutex
	due map[string][]time.Time
}

// add schedules the repeated refreshes of references of which a notification came now. They replace
// those that are scheduled already.
func (l *delayedRefreshes) add(refs []string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.due == nil {
		l.due = map[string][]time.Time{}
	}
	for _, ref := range refs {
		l.due[ref] = nil
		for _, d := range repeatDelays {
			l.due[ref] = append(l.due[ref], now.Add(d))
		}
	}
}

// takeDue removes the references that are due, and returns them sorted.
func (l *delayedRefreshes) takeDue(now time.Time) (refs []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ref, at := range l.due {
		if now.Before(at[0]) {
			continue
		}
		refs = append(refs, ref)
		if l.due[ref] = at[1:]; len(at) == 1 {
			delete(l.due, ref)
		}
	}
	slices.Sort(refs)
	return refs
}
