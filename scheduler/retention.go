package scheduler

import (
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Retention limits how long the logs of ended builds are kept. A build may outlive its logs.
// Readers then receive an error that says that the logs were removed.
type Retention struct {
	// Age is how long logs are kept after the end of the build. If it is zero, logs are kept as
	// long as the build.
	Age time.Duration
	// TotalBytes is how many bytes of complete logs the cluster keeps. Each log counts once. The
	// logs of the builds that ended first are removed first. Zero means no limit.
	TotalBytes int64
}

const (
	// maxExpired limits the builds whose logs one command removes, so that the command locks the
	// state only for a few milliseconds.
	maxExpired = 32
	// maxRetentionInterval limits the time between checks.
	maxRetentionInterval = time.Minute
)

// interval returns the time between checks.
func (r Retention) interval() time.Duration {
	if r.Age == 0 {
		return maxRetentionInterval
	}
	return min(max(r.Age/4, time.Second), maxRetentionInterval)
}

// expired returns ended builds whose logs must be removed, at most maxExpired, in the order in which
// they ended. It returns no build that is younger than the minimum age of the history.
func (r Retention) expired(s *builds.State, now time.Time) (ids []string) {
	least, total := time.Duration(s.Settings().HistoryMinAgeNanos), s.LogBytes()
	s.Logged(func(rec *buildsv1.Record, bytes int64) bool {
		age := now.Sub(rec.Build.EndedAt.AsTime())
		old := r.Age > 0 && age >= r.Age
		if age < least || !old && (r.TotalBytes == 0 || total <= r.TotalBytes) {
			return false // the others ended later
		}
		if old || bytes > 0 {
			ids, total = append(ids, rec.Build.Id), total-bytes
		}
		return len(ids) < maxExpired
	})
	return ids
}
