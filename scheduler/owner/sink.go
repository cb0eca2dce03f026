package owner

import (
	"context"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// coalesce is how long reports of one attempt are gathered before they are
// committed: an attempt that is over by then costs no commit for them.
const coalesce = 200 * time.Millisecond

// sink is the Sink of one attempt: output goes to the log, reports of
// progress are coalesced and committed by one goroutine.
type sink struct {
	log    logs.AttemptWriter
	report func(context.Context, []*imagebuilderv1.Step)

	mu       sync.Mutex
	writeErr error
	latest   []*imagebuilderv1.Step
	started  bool

	news   chan struct{} // capacity 1
	cancel context.CancelFunc
	done   chan struct{}
}

var _ workload.Sink = (*sink)(nil)

func newSink(log logs.AttemptWriter, report func(context.Context, []*imagebuilderv1.Step)) *sink {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sink{log: log, report: report, news: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	go s.loop(ctx)
	return s
}

// loop commits reports until quiet is called.
func (s *sink) loop(ctx context.Context) {
	defer close(s.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.news:
		}
		if ctxutil.Sleep(ctx, coalesce); ctx.Err() != nil {
			return
		}
		s.report(ctx, s.steps())
	}
}

// quiet ends the reports and waits for the last one.
func (s *sink) quiet() {
	s.cancel()
	<-s.done
}

// Write appends raw output to the log.
func (s *sink) Write(p []byte) (int, error) {
	n, err := s.log.Write(p)
	if err != nil {
		s.mu.Lock()
		s.writeErr = err
		s.mu.Unlock()
	}
	return n, err
}

// Flush waits until a next owner would find all that was written.
func (s *sink) Flush(ctx context.Context) error {
	if err := s.err(); err != nil {
		return err
	}
	err := s.log.Flush(ctx)
	if err != nil && ctx.Err() == nil { // else who calls again may have the time
		s.mu.Lock()
		s.writeErr = err
		s.mu.Unlock()
	}
	return err
}

func (s *sink) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeErr
}

// Offset is the number of raw bytes stored so far.
func (s *sink) Offset() int64 { return s.log.RawOffset() }

// Running tells that the workload has started.
func (s *sink) Running() {
	s.mu.Lock()
	first := !s.started
	s.started = true
	s.mu.Unlock()
	if first {
		s.tell()
	}
}

// Steps replaces the structured steps.
func (s *sink) Steps(steps []*imagebuilderv1.Step) {
	s.mu.Lock()
	s.latest, s.started = steps, true
	s.mu.Unlock()
	s.tell()
}

func (s *sink) steps() []*imagebuilderv1.Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest
}

func (s *sink) tell() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}
