package node

import (
	"slices"
	"sync"
	"time"
)

// Distribution (2.8, handlers/manifests.go) tells of a push before it sets the
// tag, so that a refresh at once may find what the tag was before. What was told
// is refreshed again after a moment, and once more for storage that is slow.
var repeatDelays = [...]time.Duration{time.Second, 10 * time.Second}

// lateRefreshes are the references that are to be refreshed once more.
type delayedRefreshes struct {
	mu  sync.Mutex
	due map[string][]time.Time
}

// add plans for references that were told of now. Those that are planned for
// already are planned anew.
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

// take answers what is due, in order, and forgets it.
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
