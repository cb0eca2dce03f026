package wsmanager

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/proto/supervisor"
)

// maxQuietPauses is the number of quiet pauses after which a replay that has brought nothing new is
// given up.
const maxQuietPauses = 10

// pump copies the output of one workspace to the sink.
type pump struct {
	r     *Runtime
	watch *watch
	sink  workload.Sink
	out   *output
	// ending is closed when the workspace has ended.
	ending chan struct{}
	// complete and last are valid after run: complete means that the latest connection was read to
	// its end; last is the error of the latest failed connection.
	complete bool
	last     error
	sinkErr  error
}

func newPump(r *Runtime, w *watch, sink workload.Sink) *pump {
	return &pump{r: r, watch: w, sink: sink, out: newOutput(sink, r.opts.TerminalBuffer, r.opts.ReplayWhole), ending: make(chan struct{}), last: errLogAccess}
}

// end records that the workspace has ended: output that cannot be read now is lost.
func (p *pump) end() { close(p.ending) }

func (p *pump) ended() bool {
	select {
	case <-p.ending:
		return true
	default:
		return false
	}
}

// run reads until the output is complete, the workspace has ended and can no longer be read, the
// sink fails, or ctx ends.
func (p *pump) run(ctx context.Context) {
	b := p.r.backoff()
	for ctx.Err() == nil {
		final := p.ended()
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
		if p.out.sink.Offset() != before {
			b.reset()
		}
		if b.waitOr(ctx, p.ending) != nil {
			return
		}
	}
}

// access waits until the address and the token of the workspace are known. It returns false if the
// workspace or ctx has ended.
func (p *pump) access(ctx context.Context) (access, bool) {
	for {
		ended := p.ended()
		v, changed := p.watch.current()
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

// follow reads one connection to its end. done means that there is no more output.
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
		return closed && isNotFound(err), err // the supervisor no longer keeps the output
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

// copy writes the new output to the sink, and returns the error that ended the stream.
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
			if p.sinkErr = r.quiet(pauses >= maxQuietPauses); p.sinkErr != nil {
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

// explain adds a line to the log if the log may be incomplete. run must have returned.
func (p *pump) explain() {
	switch {
	case p.sinkErr != nil:
	case p.sink.Offset() == 0 && !p.complete:
		_ = p.out.mark("image-builder: the output of the build could not be read: " + p.last.Error())
	case !p.complete:
		_ = p.out.mark("image-builder: the end of the output may be missing")
	}
}
