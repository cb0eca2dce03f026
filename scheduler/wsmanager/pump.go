package wsmanager

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/proto/supervisor"
)

// patience is how many quiet pauses a replay may take that has not reached
// what is new.
const patience = 10

// pump writes the output of one workspace to the sink.
type pump struct {
	r     *Runtime
	watch *watch
	sink  workload.Sink
	out   *output
	// ending is closed when the workspace has ended.
	ending chan struct{}
	// After run: whether the latest connection was read to its end, and what
	// kept it from reading more.
	complete bool
	last     error
	sinkErr  error
}

func newPump(r *Runtime, w *watch, sink workload.Sink) *pump {
	return &pump{r: r, watch: w, sink: sink, out: newOutput(sink, r.opts.TerminalBuffer, r.opts.ReplayWhole), ending: make(chan struct{}), last: errLogAccess}
}

// end tells that the workspace has ended: what cannot be read now never will.
func (p *pump) end() { close(p.ending) }

func (p *pump) over() bool {
	select {
	case <-p.ending:
		return true
	default:
		return false
	}
}

// run reads until the output is complete, the workspace has ended and cannot
// be read any more, the sink refuses, or ctx ends.
func (p *pump) run(ctx context.Context) {
	b := p.r.backoff()
	for ctx.Err() == nil {
		final := p.over()
		a, ok := p.access(ctx)
		if !ok {
			return
		}
		before := p.out.sink.Offset()
		done, err := p.follow(ctx, a)
		if p.sinkErr != nil || ctx.Err() != nil {
			return
		}
		if err != nil {
			p.last = err
		}
		if p.complete = p.complete || errors.Is(err, io.EOF); done || final {
			return
		}
		if p.out.sink.Offset() > before {
			b.reset()
		}
		if b.waitOr(ctx, p.ending) != nil {
			return
		}
	}
}

// access waits until the workspace can be reached.
func (p *pump) access(ctx context.Context) (access, bool) {
	for {
		ended := p.over()
		v, changed := p.watch.look()
		if v.url != "" && v.token != "" {
			return access{v.url, v.token}, true
		}
		if ended {
			return access{}, false
		}
		select {
		case <-changed:
		case <-p.ending:
		case <-ctx.Done():
			return access{}, false
		}
	}
}

// follow reads one connection to its end. done: there is nothing more to read.
func (p *pump) follow(ctx context.Context, a access) (done bool, err error) {
	task, err := p.r.task(ctx, a)
	if err != nil {
		return false, err
	}
	closed := task.GetState() == supervisor.TaskState_closed
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.r.listen(ctx, a, task)
	if err != nil {
		return closed && isNotFound(err), err // it keeps no more
	}
	p.complete = false
	chunks, end := make(chan []byte), make(chan error, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		end <- receive(ctx, stream, chunks)
	}()
	defer func() {
		cancel()
		stream.close()
		<-read
	}()
	err = p.copy(ctx, chunks, end)
	return closed && errors.Is(err, io.EOF), err
}

// receive reads a stream to its end.
func receive(ctx context.Context, stream *values, chunks chan<- []byte) error {
	for {
		var res supervisor.ListenToOutputResponse
		if err := stream.next(&res); err != nil {
			return err
		}
		if len(res.Data) == 0 {
			continue
		}
		select {
		case chunks <- res.Data:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// copy writes what is new to the sink, and answers why the stream ended.
func (p *pump) copy(ctx context.Context, chunks <-chan []byte, end <-chan error) error {
	r := &replay{out: p.out}
	quiet := time.NewTimer(p.r.opts.ReplayQuiet)
	defer quiet.Stop()
	for pauses := 1; ; {
		select {
		case c := <-chunks:
			p.sink.Running()
			if p.sinkErr = r.take(c); p.sinkErr != nil {
				return p.sinkErr
			}
			if !r.decided {
				quiet.Reset(p.r.opts.ReplayQuiet)
			}
		case <-quiet.C:
			if p.sinkErr = r.quiet(pauses >= patience); p.sinkErr != nil {
				return p.sinkErr
			}
			if pauses++; !r.decided {
				quiet.Reset(p.r.opts.ReplayQuiet)
			}
		case err := <-end:
			if p.sinkErr = r.end(errors.Is(err, io.EOF)); p.sinkErr != nil {
				return p.sinkErr
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// explain adds a line to the log if it is not known to be complete. run must
// have returned.
func (p *pump) explain() {
	switch {
	case p.sinkErr != nil:
	case p.sink.Offset() == 0 && !p.complete:
		_ = p.out.mark("image-builder: the output of the build could not be read: " + p.last.Error())
	case !p.complete:
		_ = p.out.mark("image-builder: the end of the output may be missing")
	}
}
