package buildkit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/image-builder-ha/image-builder/builds/logs"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// statusInterval is the minimum time between two lines about one transfer.
const statusInterval = 5 * time.Second

// progress turns the daemon's reports into plain lines of output, in BuildKit's format (`#3 [2/4]
// RUN make`), and into structured steps. It keeps a few kilobytes for each step, however much the
// step writes.
//
// It redacts each stream of each step before it merges them: afterwards, a line of another step may
// cut a secret in two.
type progress struct {
	sink    workload.Sink
	secrets *logs.Patterns
	out     lines
	batch   int     // number of the current report
	ending  []*step // ended, but the end is not printed yet

	mu     sync.Mutex
	steps  []*step
	byID   map[string]*step
	failed error
}

func newProgress(sink workload.Sink, secrets *logs.Patterns) *progress {
	return &progress{sink: sink, secrets: secrets, out: lines{w: sink}, byID: map[string]*step{}}
}

// redact removes the secrets from a text, which must not be truncated yet.
func (p *progress) redact(text string) string { return p.secrets.String(text) }

// begin reports that the solve begins. If output cannot be stored later, it calls cancel.
func (p *progress) begin(cancel context.CancelCauseFunc) {
	p.out.failed = func(err error) {
		p.mu.Lock()
		p.failed = fmt.Errorf("write the log: %w", err)
		p.mu.Unlock()
		cancel(p.failed)
	}
	p.sink.Running()
}

// err returns the error of storing output, or nil.
func (p *progress) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// follow prints the reports until the channel is closed. It never stops reading, because the client
// would block. Once ctx has ended, it prints nothing more.
func (p *progress) follow(ctx context.Context, statuses <-chan *client.SolveStatus) {
	for s := range statuses {
		if ctx.Err() == nil {
			p.print(s)
		}
	}
	if ctx.Err() == nil {
		p.out.endLine()
		p.ends(true)
		for _, st := range p.steps {
			p.cut(st)
		}
		p.out.flush()
	}
}

func (p *progress) print(s *client.SolveStatus) {
	changed := false
	p.batch++
	p.out.busy = slices.ContainsFunc(s.Logs, func(l *client.VertexLog) bool {
		v := p.byID[string(l.Vertex)]
		return v != nil && v.number == p.out.open
	})
	for _, v := range s.Vertexes {
		changed = p.vertex(v) || changed
	}
	for _, st := range s.Statuses {
		p.status(st)
	}
	for _, w := range s.Warnings {
		if v := p.byID[string(w.Vertex)]; v != nil && v.number != 0 {
			p.out.line(v.number, "WARN: %s", p.redact(string(w.Short)))
		}
	}
	for _, l := range s.Logs {
		if v := p.byID[string(l.Vertex)]; v != nil && v.number != 0 {
			v.reported, v.lastBatch = false, p.batch
			p.output(v, l.Timestamp.Sub(v.startedAt), p.redacted(v, l))
		}
	}
	p.ends(false)
	p.out.flush()
	if changed {
		p.sink.Steps(p.report())
	}
}

// redacted returns the output of a step that is redacted and final now. It keeps the rest, because
// that may be the beginning of a secret.
func (p *progress) redacted(st *step, l *client.VertexLog) (out []byte) {
	stream, data := l.Stream, l.Data
	r := st.streams[stream]
	if r == nil {
		if st.streams == nil {
			st.streams, st.clipped = map[int]*logs.Redactor{}, map[int]*clipped{}
		}
		r = p.secrets.Redactor()
		st.streams[stream] = r
	}
	var ended []byte // output before a gap
	if c := st.clipped[stream]; c != nil {
		if c.repeats(data) {
			ended = c.end(r.Cut())
			r = p.secrets.Redactor()
			st.streams[stream], c.open = r, true
		}
		c.receive(data)
		if c.open {
			var found bool
			if data, found = afterGap(data); !found {
				return ended
			}
			c.open = false
		}
	}
	data, gap := beforeGap(data)
	out, _ = r.Write(data)
	if ended != nil {
		out = slices.Concat(ended, out)
	}
	if gap != nil {
		out = slices.Concat(out, r.Cut(), gap)
		st.streams[stream], st.clipped[stream] = p.secrets.Redactor(), &clipped{open: true}
	}
	return out
}

// output prints redacted output of a step. at is the time since the start of the step.
func (p *progress) output(st *step, at time.Duration, data []byte) {
	if len(data) > 0 {
		st.keep(data)
		p.out.output(st.number, at, data)
	}
}

// cut prints the output of a step that is held back, and ends its line.
func (p *progress) cut(st *step) {
	for _, stream := range slices.Sorted(maps.Keys(st.streams)) {
		p.output(st, max(st.endedAt.Sub(st.startedAt), 0), st.streams[stream].Cut())
	}
	if p.out.open == st.number {
		p.out.endLine()
	}
}

// vertex records the changes of a step, and prints that the step has started.
func (p *progress) vertex(v *client.Vertex) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.byID[string(v.Digest)]
	if st == nil {
		st = &step{name: v.Name}
		p.byID[string(v.Digest)] = st
	}
	if v.Started != nil && st.number == 0 {
		p.steps = append(p.steps, st)
		st.number, st.startedAt = len(p.steps), *v.Started
		p.out.line(st.number, "%s", p.redact(v.Name))
		changed = true
	}
	if v.Completed != nil && !v.Completed.Equal(st.endedAt) {
		st.reported = st.reported && st.err == v.Error
		st.endedAt, st.cached, st.err = *v.Completed, v.Cached && (st.cached || st.endedAt.IsZero()), v.Error
		changed = true
		if st.number != 0 && !slices.Contains(p.ending, st) {
			p.ending = append(p.ending, st)
		}
	}
	return changed
}

// ends prints that steps have ended, after their output. BuildKit reports the end of a step before
// the last of its output. Therefore a step that wrote in this report, or whose line is open, stays
// pending, unless the report is the last one. A step that BuildKit reports as ended a second time
// is not printed again.
func (p *progress) ends(last bool) {
	p.ending = slices.DeleteFunc(p.ending, func(st *step) bool {
		if (st.lastBatch == p.batch || st.number == p.out.open) && !last {
			return false
		}
		if !st.reported {
			st.reported = true
			p.cut(st)
			p.end(st)
		}
		return true
	})
}

func (p *progress) end(st *step) {
	switch {
	case st.err != "":
		p.out.line(st.number, "ERROR: %s", p.redact(st.err))
	case st.cached:
		p.out.line(st.number, "CACHED")
	default:
		p.out.line(st.number, "DONE %.1fs", st.endedAt.Sub(st.startedAt).Seconds())
	}
}

// status prints the progress of a transfer: at its end, and every statusInterval before.
func (p *progress) status(s *client.VertexStatus) {
	st := p.byID[string(s.Vertex)]
	if st == nil || st.number == 0 {
		return
	}
	if st.transfers == nil {
		st.transfers = map[string]time.Time{}
	}
	last, known := st.transfers[s.ID]
	if !known {
		last = s.Timestamp
		st.transfers[s.ID] = last
	}
	if s.Completed == nil && s.Timestamp.Sub(last) < statusInterval {
		return
	}
	st.transfers[s.ID], st.reported = s.Timestamp, false
	text := strings.TrimSuffix(s.ID, ":")
	if s.Total != 0 {
		text += fmt.Sprintf(" %s / %s", size(s.Current), size(s.Total))
	} else if s.Current != 0 {
		text += " " + size(s.Current)
	}
	if s.Completed != nil {
		if s.Started != nil {
			text += fmt.Sprintf(" %.1fs", s.Completed.Sub(*s.Started).Seconds())
		}
		text += " done"
	}
	p.out.line(st.number, "%s", p.redact(text))
}

// size formats a number of bytes as BuildKit does, in powers of 1000.
func size(n int64) string {
	f := float64(n)
	for _, unit := range []string{"B", "kB", "MB"} {
		if f < 1000 {
			if unit == "B" {
				return fmt.Sprintf("%dB", n)
			}
			return fmt.Sprintf("%.2f%s", f, unit)
		}
		f /= 1000
	}
	return fmt.Sprintf("%.2fGB", f)
}

// step returns the step with that digest. If there is none, it returns the first step that failed,
// and otherwise a step with a general name.
func (p *progress) step(digest string) stepView {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.byID[digest]
	if i := slices.IndexFunc(p.steps, func(s *step) bool { return s.err != "" }); st == nil && i >= 0 {
		st = p.steps[i]
	}
	if st == nil {
		return stepView{name: "the build"}
	}
	return stepView{name: clip(p.redact(st.name)), tail: st.lines(p.redact)}
}

// report returns the steps that have started, the last maxSteps of them. BuildKit's internal steps
// are included only if they failed.
func (p *progress) report() []*imagebuilderv1.Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*imagebuilderv1.Step
	for _, st := range p.steps {
		if strings.HasPrefix(st.name, "[internal]") && st.err == "" {
			continue
		}
		s := &imagebuilderv1.Step{Name: clip(p.redact(st.name)), StartedAt: timestamppb.New(st.startedAt), Cached: st.cached, Error: clip(p.redact(st.err))}
		if !st.endedAt.IsZero() {
			s.EndedAt = timestamppb.New(st.endedAt)
		}
		out = append(out, s)
	}
	return out[max(0, len(out)-maxSteps):]
}
