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

// lasts returns the age of the stall. Its arguments are the number of bytes that are stored, and
// the number of bytes that every next owner would find.
func (s *stall) lasts(now time.Time, stored, held int64) time.Duration {
	if held > s.held || !s.job.SpoolMayBeFull(stored-held) {
		s.begin, s.held = now, held
	}
	return now.Sub(s.begin)
}
