package builds

import (
	"time"
	"unique"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// reapsPerApply limits how many ended builds one command removes.
const reapsPerApply = 256

// reap removes up to n ended builds that are beyond the limits of the history, oldest first. It
// removes no build before its minimum age. It removes the successes of a ref in the order of their
// ends: otherwise an older success would count as the published one (Published).
func (tx *change) reap(n int) {
	set := tx.settings
	if tx.level >= reapLevel {
		n = min(n, reapsPerApply-len(tx.event.Removed))
	}
	for ; n > 0; n-- {
		oldest, ok := tx.history.Min()
		if !ok {
			return
		}
		r := oldest.get()
		age := tx.time - r.Build.EndedAt.AsTime().UnixNano()
		over := set.HistoryTotal > 0 && int64(tx.history.Len()) > set.HistoryTotal
		old := set.HistoryMaxAgeNanos > 0 && age > set.HistoryMaxAgeNanos
		if age < set.HistoryMinAgeNanos || (!over && !old) {
			break
		}
		tx.removeBuild(r)
	}
	left := tx.over[:0]
	for _, requester := range tx.over {
		for ; n > 0 && tx.overRequester(requester); n-- {
			oldest := tx.oldestOf(requester)
			if oldest == nil || tx.time-oldest.Build.EndedAt.AsTime().UnixNano() < set.HistoryMinAgeNanos {
				break
			}
			for older := oldest; older != nil && tx.level >= publishedOrderLevel; older = tx.olderSuccess(older) {
				oldest = older
			}
			tx.removeBuild(oldest)
		}
		if n == 0 || tx.level < reapLevel {
			left = append(left, requester) // the next call of reap continues with it
		}
	}
	tx.over = left
}

// oldestOf returns the build of a requester that ended first, or nil.
func (tx *change) oldestOf(requester string) (oldest *buildsv1.Record) {
	first := &entry{requester: unique.Make(requester)}
	tx.historyByRequester.Ascend(first, func(e *entry) bool {
		if e.requester == first.requester {
			oldest = e.get()
		}
		return false
	})
	return oldest
}

// overRequester reports whether a requester has more ended builds than allowed.
func (tx *change) overRequester(requester string) bool {
	limit := tx.settings.HistoryPerRequester
	n, _ := tx.historyCount.Get(requester)
	return limit > 0 && int64(n) > limit
}

// removeBuild removes a build and adds its id to the event.
func (tx *change) removeBuild(r *buildsv1.Record) {
	tx.remove(r)
	tx.event.Removed = append(tx.event.Removed, r.Build.Id)
}

// expireLogs marks the logs of ended builds as removed by retention. It skips builds before the
// minimum age of the history.
func (tx *change) expireLogs(c *buildsv1.ExpireLogs) Result {
	for _, id := range c.BuildIds {
		r := tx.Build(id)
		if r == nil || !Terminal(r.Build.Phase) ||
			tx.level >= commandTimeLevel && tx.time-r.Build.EndedAt.AsTime().UnixNano() < tx.settings.HistoryMinAgeNanos {
			continue
		}
		r = edit(r)
		for _, a := range r.Build.Attempts {
			if s := a.Log.GetState(); s == LogSealed || s == LogSealing {
				a.Log = &imagebuilderv1.AttemptLog{State: LogExpired, Length: a.Log.Length, Checksum: a.Log.Checksum}
			}
		}
		tx.put(r)
	}
	return Result{}
}

// HistoryDue returns the time at which the oldest ended build may be removed. ok is false if time
// alone removes no build.
func (s *State) HistoryDue() (due time.Time, ok bool) {
	oldest, ok := s.history.Min()
	if !ok {
		return time.Time{}, false
	}
	set := s.settings
	ended := oldest.get().Build.EndedAt.AsTime()
	soonest := ended.Add(time.Duration(set.HistoryMinAgeNanos))
	if set.HistoryTotal > 0 && int64(s.history.Len()) > set.HistoryTotal {
		return soonest, true
	}
	if set.HistoryMaxAgeNanos <= 0 {
		return time.Time{}, false
	}
	if old := ended.Add(time.Duration(set.HistoryMaxAgeNanos) + 1); old.After(soonest) {
		return old, true
	}
	return soonest, true
}
