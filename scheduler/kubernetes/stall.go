package kubernetes

import (
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

// stall measures how long a worker may have had no room for output while the copies of the log made no
// progress.
type stall struct {
	job   *podapi.Job
	begin time.Time // of the stall, or of the last progress
	held  int64     // at begin
}

// lasts takes the numbers of bytes that are stored and that every next owner would find, and returns
// the age of the stall.
func (s *stall) lasts(now time.Time, stored, held int64) time.Duration {
	if held > s.held || !s.job.SpoolMayBeFull(stored-held) {
		s.begin, s.held = now, held
	}
	return now.Sub(s.begin)
}
