package builds

import (
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// reapsPerApply bounds how many ended builds one command removes.
const reapsPerApply = 256

// reap removes up to n ended builds that the bounds of the history no longer
// keep, oldest first, none before its minimum age.
func (tx *change) reap(n int) {
	set := tx.settings
	for ; n > 0; n-- {
		_, id, ok := tx.history.Min()
		if !ok {
			return
		}
		r := tx.Build(id)
		age := tx.time - r.Build.EndedAt.AsTime().UnixNano()
		over := set.HistoryTotal > 0 && int64(tx.history.Len()) > set.HistoryTotal
		old := set.HistoryMaxAgeNanos > 0 && age > set.HistoryMaxAgeNanos
		if age < set.HistoryMinAgeNanos || (!over && !old) {
			break
		}
		tx.removeBuild(r)
	}
	for _, requester := range tx.endedRequesters() {
		for ; n > 0 && tx.overRequester(requester); n-- {
			var oldest *buildsv1.Record
			tx.historyByRequester.Ascend(pairKey(requester, ""), func(_ string, id string) bool {
				oldest = tx.Build(id)
				return false
			})
			if oldest == nil || tx.time-oldest.Build.EndedAt.AsTime().UnixNano() < set.HistoryMinAgeNanos {
				break
			}
			tx.removeBuild(oldest)
		}
	}
}

// endedRequesters answers the requesters of the builds that this command ended.
func (tx *change) endedRequesters() []string {
	var out []string
	for _, r := range tx.event.Changed {
		if Terminal(r.Build.Phase) {
			out = append(out, r.Build.Requester)
		}
	}
	return out
}

func (tx *change) overRequester(requester string) bool {
	limit := tx.settings.HistoryPerRequester
	n, _ := tx.historyCount.Get(requester)
	return limit > 0 && int64(n) > limit
}

func (tx *change) removeBuild(r *buildsv1.Record) {
	tx.remove(r)
	tx.event.Removed = append(tx.event.Removed, r.Build.Id)
}

// expireLogs notes that the logs of ended builds are gone by retention. None
// goes before the history's minimum age.
func (tx *change) expireLogs(c *buildsv1.ExpireLogs) Result {
	for _, id := range c.BuildIds {
		r := tx.Build(id)
		if r == nil || !Terminal(r.Build.Phase) ||
			tx.level >= timedLevel && tx.time-r.Build.EndedAt.AsTime().UnixNano() < tx.settings.HistoryMinAgeNanos {
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

// HistoryDue answers when the oldest ended build may be removed, if there is
// one that the bounds of the history will not keep for ever.
func (s *State) HistoryDue() (time.Time, bool) {
	_, id, ok := s.history.Min()
	if !ok {
		return time.Time{}, false
	}
	set := s.settings
	ended := s.Build(id).Build.EndedAt.AsTime()
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
