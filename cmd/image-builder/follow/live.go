package follow

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// liveView draws the steps of a build on a terminal while they run: their times, whether they came
// from the cache, and the last lines of their output. It reads the steps from the log, in which each
// line names its step (`#3 CACHED`). So a client that joins a build late sees all steps.
type liveView struct {
	updates  chan func(*liveSteps) // executed by the goroutine that owns the steps
	done     chan struct{}         // closed when that goroutine has ended
	statuses chan *bkclient.SolveStatus
	cancel   context.CancelFunc
	wg       sync.WaitGroup // zero when nothing is drawn any more
}

var _ view = (*liveView)(nil)

// newLiveView starts to draw on a terminal. The caller closes the view.
func newLiveView(terminal io.Writer, b *imagebuilderv1.Build) (*liveView, error) {
	display, err := progressui.NewDisplay(terminal, progressui.TtyMode)
	if err != nil {
		return nil, fmt.Errorf("draw on the terminal: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	v := &liveView{
		updates: make(chan func(*liveSteps)), done: make(chan struct{}),
		statuses: make(chan *bkclient.SolveStatus), cancel: cancel,
	}
	v.wg.Go(func() { _, _ = display.UpdateFrom(ctx, v.statuses) }) // it only fails when ctx ends
	v.wg.Go(func() { v.run(ctx, newLiveSteps(b, time.Now())) })
	return v, nil
}

// run owns the steps. It sends their changes to the display until the build ends or ctx does.
func (v *liveView) run(ctx context.Context, s *liveSteps) {
	defer close(v.done)
	defer close(v.statuses)
	for {
		if st := s.take(); st != nil {
			select {
			case v.statuses <- st:
			case <-ctx.Done():
				return
			}
		}
		if s.ended {
			return
		}
		select {
		case f := <-v.updates:
			f(s)
		case <-ctx.Done():
			return
		}
	}
}

// update executes f in the goroutine that owns the steps.
func (v *liveView) update(f func(*liveSteps)) {
	select {
	case v.updates <- f:
	case <-v.done:
	}
}

func (v *liveView) phase(b *imagebuilderv1.Build) error {
	v.update(func(s *liveSteps) { s.phase(b, time.Now()) })
	return nil
}

func (v *liveView) log(c client.Chunk) error {
	v.update(func(s *liveSteps) { s.log(c, time.Now()) })
	return nil
}

func (v *liveView) end(b *imagebuilderv1.Build) {
	v.update(func(s *liveSteps) { s.end(b, time.Now()) })
	v.wg.Wait()
}

func (v *liveView) close() {
	v.cancel()
	v.wg.Wait()
}
