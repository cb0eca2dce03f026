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
	"github.com/image-builder-ha/image-builder/internal/buildsteps"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// liveView draws the steps of a build on a terminal while they run: their times, whether they came
// from the cache, and the last lines of their output. It reads the steps from the log, in which each
// line names its step (`#3 CACHED`). So a client that joins a build late sees all steps.
type liveView struct {
	cancel  context.CancelFunc // ends the display
	ended   <-chan struct{}    // closed by cancel
	drawing sync.WaitGroup

	mu      sync.Mutex
	steps   *buildsteps.Steps
	changes chan *bkclient.SolveStatus // closed at the end of the build
	over    bool                       // changes is closed
}

var _ view = (*liveView)(nil)

// newLiveView starts to draw on a terminal. The caller closes the view.
func newLiveView(terminal io.Writer, b *imagebuilderv1.Build) (*liveView, error) {
	display, err := progressui.NewDisplay(terminal, progressui.TtyMode)
	if err != nil {
		return nil, fmt.Errorf("draw on the terminal: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	v := &liveView{cancel: cancel, ended: ctx.Done(), steps: buildsteps.New(b, time.Now()), changes: make(chan *bkclient.SolveStatus)}
	v.drawing.Go(func() {
		defer cancel()                            // whatever ended the display, nobody sends to it any more
		_, _ = display.UpdateFrom(ctx, v.changes) // the terminal is gone, or ctx has ended
	})
	v.update(func() {})
	return v, nil
}

// update calls f, which changes the steps, and sends the changes to the display.
func (v *liveView) update(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return
	}
	f()
	if c := v.steps.Take(); c != nil {
		select {
		case v.changes <- c:
		case <-v.ended:
		}
	}
}

func (v *liveView) phase(b *imagebuilderv1.Build) error {
	v.update(func() { v.steps.Phase(b, time.Now()) })
	return nil
}

func (v *liveView) log(c client.Chunk) error {
	v.update(func() { v.steps.Log(c, time.Now()) })
	return nil
}

func (v *liveView) end(b *imagebuilderv1.Build) {
	v.update(func() { v.steps.End(b, time.Now()) })
	v.mu.Lock()
	if !v.over {
		v.over = true
		close(v.changes)
	}
	v.mu.Unlock()
	v.drawing.Wait()
}

func (v *liveView) close() {
	v.cancel()
	v.drawing.Wait()
}
