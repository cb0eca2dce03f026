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

// liveView draws the steps of a build on a terminal while they run, with their
// times, what came from the cache and the last lines of output. It reads them
// from the log, where every line tells its step (`#3 CACHED`), so that
// whoever joins late sees all of them too.
type liveView struct {
	reports  chan func(*liveSteps) // read by the goroutine that owns the steps
	over     chan struct{}         // closed once that has ended
	statuses chan *bkclient.SolveStatus
	cancel   context.CancelFunc
	wg       sync.WaitGroup // done once nothing is drawn any more
}

var _ view = (*liveView)(nil)

// newLiveView begins to draw on a terminal.
func newLiveView(terminal io.Writer, b *imagebuilderv1.Build) (*liveView, error) {
	display, err := progressui.NewDisplay(terminal, progressui.TtyMode)
	if err != nil {
		return nil, fmt.Errorf("draw on the terminal: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	v := &liveView{
		reports: make(chan func(*liveSteps)), over: make(chan struct{}),
		statuses: make(chan *bkclient.SolveStatus), cancel: cancel,
	}
	v.wg.Go(func() { _, _ = display.UpdateFrom(ctx, v.statuses) }) // fails only with its context
	v.wg.Go(func() { v.run(ctx, newLiveSteps(b, time.Now())) })
	return v, nil
}

// run owns the steps, and hands what is new of them to the display.
func (v *liveView) run(ctx context.Context, s *liveSteps) {
	defer close(v.over)
	defer close(v.statuses)
	for {
		if st := s.take(); st != nil {
			select {
			case v.statuses <- st:
			case <-ctx.Done():
				return
			}
		}
		if s.over {
			return
		}
		select {
		case f := <-v.reports:
			f(s)
		case <-ctx.Done():
			return
		}
	}
}

func (v *liveView) tell(f func(*liveSteps)) {
	select {
	case v.reports <- f:
	case <-v.over:
	}
}

func (v *liveView) phase(b *imagebuilderv1.Build) error {
	v.tell(func(s *liveSteps) { s.phase(b, time.Now()) })
	return nil
}

func (v *liveView) log(c client.Chunk) error {
	v.tell(func(s *liveSteps) { s.log(c, time.Now()) })
	return nil
}

func (v *liveView) end(b *imagebuilderv1.Build) {
	v.tell(func(s *liveSteps) { s.end(b, time.Now()) })
	v.wg.Wait()
}

func (v *liveView) close() {
	v.cancel()
	v.wg.Wait()
}
