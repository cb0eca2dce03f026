package raftlog

import (
	"fmt"
	"time"
)

// writing measures a write, which ends when the returned function is called.
func (s *Log) writing() func() {
	begin := time.Now()
	return func() {
		// Roughly the mean of the last ten writes.
		s.latency.Store(s.latency.Load()*9/10 + int64(time.Since(begin))/10)
	}
}

// Slow reports whether recent writes took more than half of limit on average.
func (s *Log) Slow(limit time.Duration) bool { return time.Duration(s.latency.Load()) > limit/2 }

// HealthProblem returns why the log cannot be written: the lack of room, or the error of the last
// write. It returns nil if the last write succeeded and there is room for the next.
func (s *Log) HealthProblem() error {
	if err := s.room(); err != nil {
		return err
	}
	if err := s.lastErr.Load(); err != nil && *err != nil {
		return fmt.Errorf("the disk under the replicated log cannot be written: %w", *err)
	}
	return nil
}

// Unwritable returns why the log cannot be written now, or nil. It does not block.
func (s *Log) Unwritable() error {
	if err := s.room(); err != nil {
		return err
	}
	if err := s.broken.Load(); err != nil {
		return fmt.Errorf("the disk under the replicated log cannot be written: %w", *err)
	}
	return nil
}

// Oldest returns the age of the oldest change of the log, of the term or of the vote in progress; 0
// if there is none. A change that waits for another one is in progress, too.
func (s *Log) Oldest() time.Duration { return s.ops.Oldest() }

// Report wakes Watch because of a change that was refused.
func (s *Log) Report() {
	select {
	case s.failed <- struct{}{}:
	default:
	}
}
