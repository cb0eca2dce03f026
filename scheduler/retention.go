package scheduler

import (
	"context"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Retention bounds how long logs of ended builds are kept. A build outlives its
// logs: readers are told that they were removed.
type Retention struct {
	// Age is how long after a build's end its logs stay; as long as the build if
	// zero.
	Age time.Duration
	// TotalBytes is how many bytes of complete logs are kept in the cluster, each
	// log counted once; the oldest builds' go first. No limit if zero.
	TotalBytes int64
}

const (
	// expiresAtOnce bounds how many builds one command is about.
	expiresAtOnce = 256
	// retentionInterval is the longest pause between looks.
	retentionInterval = time.Minute
)

// interval is the pause between looks.
func (r Retention) interval() time.Duration {
	if r.Age == 0 {
		return retentionInterval
	}
	return min(max(r.Age/4, time.Second), retentionInterval)
}

// expireLogs commits which logs retention no longer keeps, until ctx ends.
func (l *Leader) expireLogs(ctx context.Context) {
	r := l.o.Retention
	if r == (Retention{}) {
		return
	}
	for ctx.Err() == nil {
		view := l.o.Store.View()
		ids := r.expired(view, l.o.Now())
		if len(ids) == 0 {
			ctxutil.Sleep(ctx, r.interval())
			continue
		}
		if _, _, err := builds.Propose(ctx, l.o.Raft, &buildsv1.ExpireLogs{BuildIds: ids}); err != nil {
			if ctx.Err() == nil {
				l.o.Log.Warn("cannot commit that logs are removed by retention, will try again", "err", err)
			}
			ctxutil.Sleep(ctx, retryInterval)
			continue
		}
		l.o.Log.Info("logs of builds are removed by retention", "builds", len(ids), "oldest", ids[0])
		if l.o.Expired != nil {
			l.o.Expired(len(ids))
		}
	}
}

// expired answers ended builds whose logs have to go, oldest first, no more
// than one command takes. None goes before the history's minimum age.
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
	return ids[:min(len(ids), expiresAtOnce)]
}
