package worker

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"google.golang.org/protobuf/encoding/protojson"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

// report is the Sink of the pod's workload, and holds the State for the owners.
type report struct {
	ctx   context.Context // of the workload
	spool *spool

	mu      sync.Mutex
	state   podapi.State
	changed chan struct{} // closed and replaced at each change
}

var _ workload.Sink = (*report)(nil)

func newReport(ctx context.Context, s *spool) *report {
	return &report{ctx: ctx, spool: s, state: podapi.State{Version: 1}, changed: make(chan struct{})}
}

// Write appends output to the spool. It blocks while the spool is full.
func (r *report) Write(p []byte) (int, error) { return r.spool.write(r.ctx, p) }

// Offset returns the length of the output.
func (r *report) Offset() int64 { return r.spool.size() }

// Held returns the length of the output.
func (r *report) Held() int64 { return r.spool.size() }

// Flush does nothing: the spool ends with the pod.
func (r *report) Flush(context.Context) error { return nil }

// Running records that the workload has started.
func (r *report) Running() {
	r.change(func(s *podapi.State) bool {
		changed := !s.Running
		s.Running = true
		return changed
	})
}

// Steps replaces the steps.
func (r *report) Steps(steps []*imagebuilderv1.Step) {
	out := make([]json.RawMessage, 0, len(steps))
	for _, st := range steps {
		raw, err := protojson.Marshal(st)
		if err != nil {
			continue // cannot happen: texts are valid UTF-8 here
		}
		out = append(out, raw)
	}
	r.change(func(s *podapi.State) bool {
		s.Running, s.Steps = true, out
		return true
	})
}

// end records the result of the workload. Nothing may be written after it.
func (r *report) end(res podapi.Result) {
	r.spool.finish()
	r.change(func(s *podapi.State) bool {
		s.Result, s.Length = &res, r.spool.size()
		return true
	})
}

func (r *report) change(f func(*podapi.State) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !f(&r.state) {
		return
	}
	r.state.Version++
	close(r.changed)
	r.changed = make(chan struct{})
}

// after returns the state once its version is above v, or ctx has ended.
func (r *report) after(ctx context.Context, v uint64) podapi.State {
	for {
		r.mu.Lock()
		s, changed := r.state, r.changed
		r.mu.Unlock()
		if s.Result == nil {
			s.Length = r.spool.size()
		}
		if s.Version > v {
			return s
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s
		}
	}
}
