package scheduler

import (
	"slices"
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
	// logs of the oldest builds are removed first. Zero means no limit.
	TotalBytes int64
}

const (
	// maxExpired limits how many builds one command is about.
	maxExpired = 256
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

// expired returns ended builds whose logs must be removed, oldest first, at most maxExpired. It
// returns no build that is younger than the minimum age of the history.
func (r Retention) expired(s *builds.State, now time.Time) (ids []string) {
	set := s.Settings()
	var total int64
	s.Descend("", func(rec *buildsv1.Record) bool {
		var bytes int64
		kept := false
		for _, a := range rec.Build.Attempts {
			if a.Log.GetState() == builds.LogSealed {
				kept, bytes = true, bytes+a.Log.GetLength()
			}
		}
		total += bytes
		if !kept || !builds.Terminal(rec.Build.Phase) {
			return true
		}
		age := now.Sub(rec.Build.EndedAt.AsTime())
		if age < time.Duration(set.HistoryMinAgeNanos) {
			return true
		}
		if r.Age > 0 && age >= r.Age || r.TotalBytes > 0 && bytes > 0 && total > r.TotalBytes {
			ids = append(ids, rec.Build.Id)
		}
		return true
	})
	slices.Reverse(ids)
	return ids[:min(len(ids), maxExpired)]
}
