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

// gate is a URL that lets the steps of builds wait: the first request until it
// is opened, or the one who asks is gone, further ones not at all.
type gate struct {
	t    *testing.T
	url  string
	once sync.Once
	free chan struct{}

	mu    sync.Mutex
	asked int
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{t: t, free: make(chan struct{})}
	g.url = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.asked++
		first := g.asked == 1
		g.mu.Unlock()
		if first {
			select {
			case <-g.free:
			case <-r.Context().Done():
				return
			}
		}
		_, _ = fmt.Fprintln(w, "through the gate") // who asks may be gone
	}))
	t.Cleanup(g.open)
	return g
}

// await waits until a step waits.
func (g *gate) await() {
	g.t.Helper()
	testkit.Eventually(g.t, 2*time.Minute, "a step of the build has come to the gate", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.asked > 0
	})
}

func (g *gate) open() { g.once.Do(func() { close(g.free) }) }
