//go:build kubernetes

package kubelet_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// gate is a URL at which a build step blocks. The first request waits until open is called or the
// client disconnects. Further requests do not wait.
type gate struct {
	t      *testing.T
	url    string
	once   sync.Once
	opened chan struct{}

	mu       sync.Mutex
	requests int
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{t: t, opened: make(chan struct{})}
	g.url = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.requests++
		first := g.requests == 1
		g.mu.Unlock()
		if first {
			select {
			case <-g.opened:
			case <-r.Context().Done():
				return
			}
		}
		_, _ = fmt.Fprintln(w, "through the gate") // the client may have disconnected
	}))
	t.Cleanup(g.open)
	return g
}

// await waits for the first request of a build step.
func (g *gate) await() {
	g.t.Helper()
	testkit.Eventually(g.t, 2*time.Minute, "a step of the build has reached the gate", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.requests > 0
	})
}

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }
