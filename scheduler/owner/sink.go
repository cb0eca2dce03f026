package owner

import (
	"context"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// reportInterval is how long reports of an attempt are collected before they are committed as one.
// An attempt that ends within this time costs no commit for its progress.
const reportInterval = 200 * time.Millisecond

// sink is the workload.Sink of one attempt. It writes output to the log. One goroutine commits the
// reported progress.
type sink struct {
	log    logs.AttemptWriter
	report func(context.Context, []*imagebuilderv1.Step)

	mu       sync.Mutex
	writeErr error
	latest   []*imagebuilderv1.Step
	started  bool

	reported chan struct{} // capacity 1: there is progress to commit
	cancel   context.CancelFunc
	done     chan struct{}
}

var _ workload.Sink = (*sink)(nil)

// newSink returns a sink that commits progress by report. The caller calls stop.
func newSink(log logs.AttemptWriter, report func(context.Context, []*imagebuilderv1.Step)) *sink {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sink{log: log, report: report, reported: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	go s.loop(ctx)
	return s
}

// loop commits progress until stop is called.
func (s *sink) loop(ctx context.Context) {
	defer close(s.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.reported:
		}
		if ctxutil.Sleep(ctx, reportInterval); ctx.Err() != nil {
			return
		}
		s.report(ctx, s.steps())
	}
}

// stop ends the commits of progress and waits for the last one. Output can still be written. stop
// may be called repeatedly.
func (s *sink) stop() {
	s.cancel()
	<-s.done
}

// Write implements workload.Sink.
func (s *sink) Write(p []byte) (int, error) {
	n, err := s.log.Write(p)
	if err != nil {
		s.fail(err)
	}
	return n, err
}

// Marker writes a line that is not output of the workload. It does not move Offset.
func (s *sink) Marker(line string) error {
	err := s.log.Marker(line)
	if err != nil {
		s.fail(err)
	}
	return err
}

// Reposition sets Offset to the position in the workload's output at which the next Write begins.
// It does nothing below feature level 5.
func (s *sink) Reposition(offset int64) error {
	err := s.log.Reposition(offset)
	if err != nil {
		s.fail(err)
	}
	return err
}

// Flush implements workload.Sink. It returns the error of a former Write.
func (s *sink) Flush(ctx context.Context) error {
	if err := s.err(); err != nil {
		return err
	}
	err := s.log.Flush(ctx)
	if err != nil && ctx.Err() == nil { // after the end of ctx, another call may still succeed
		s.fail(err)
	}
	return err
}

// fail records the error of the log.
func (s *sink) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeErr = err
}

// err returns the last error of the log, or nil.
func (s *sink) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeErr
}

// Offset implements workload.Sink.
func (s *sink) Offset() int64 { return s.log.RawOffset() }

// Held implements workload.Sink.
func (s *sink) Held() int64 { return s.log.Held() }

// Running implements workload.Sink.
func (s *sink) Running() {
	s.mu.Lock()
	first := !s.started
	s.started = true
	s.mu.Unlock()
	if first {
		s.wake()
	}
}

// Steps implements workload.Sink.
func (s *sink) Steps(steps []*imagebuilderv1.Step) {
	s.mu.Lock()
	s.latest, s.started = steps, true
	s.mu.Unlock()
	s.wake()
}

// steps returns the last reported steps.
func (s *sink) steps() []*imagebuilderv1.Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest
}

// wake makes loop commit the progress.
func (s *sink) wake() {
	select {
	case s.reported <- struct{}{}:
	default:
	}
}
