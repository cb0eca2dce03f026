package raftlog

import (
	"context"
	"log/slog"
	"time"
)

// Watch opens the log again after errors of its disk, and reports the lack of room, until ctx ends.
// A node that does not lead may otherwise never write again, because it does not stand for election
// before.
func (s *Log) Watch(ctx context.Context, logger *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.failed:
		}
		err := s.recover()
		if err == nil {
			continue
		}
		logger.Error("the replicated log cannot be written: this node accepts no commands until its disk works and has room", "err", err)
		for ; err != nil; err = s.recover() {
			t := time.NewTimer(mendInterval)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
		logger.Info("the log can be written again")
	}
}
