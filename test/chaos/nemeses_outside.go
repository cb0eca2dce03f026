//go:build faults

package chaos

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
)

func registryPauses(ctx context.Context, w *world, _ []*harness.Node, s Step) {
	w.reg.Signal(syscall.SIGSTOP)
	wait(ctx, s.Lasts/2)
}

// registryErrors returns server errors for some or all requests, and breaks connections in the
// middle of a response.
func registryErrors(ctx context.Context, w *world, _ []*harness.Node, s Step) {
	some := func(*http.Request) bool { return rand.Float64() < 0.1+0.9*s.Amount }
	for _, status := range []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusTooManyRequests} {
		w.gate.Fail(func(r *http.Request) bool { return rand.IntN(5) == 0 && some(r) }, -1, status)
	}
	w.gate.Reset(some, -1, 10)
	w.gate.inject(ctx, s.Lasts/2)
}

// registryHangs sends no response to some or all requests, and closes their connections at the end.
func registryHangs(ctx context.Context, w *world, _ []*harness.Node, s Step) {
	w.gate.hang(func(*http.Request) bool { return rand.Float64() < 0.1+0.9*s.Amount })
	w.gate.inject(ctx, s.Lasts)
}

// registrySlow sends responses in pieces, with a pause before each.
func registrySlow(ctx context.Context, w *world, _ []*harness.Node, s Step) {
	w.gate.Slow(registrytest.All, -1, 4, time.Duration(s.Amount*float64(500*time.Millisecond)))
	w.gate.inject(ctx, s.Lasts)
}

// slowTags delays each request that sets or checks a tag by up to ten seconds.
func slowTags(ctx context.Context, w *world, _ []*harness.Node, s Step) {
	w.gate.late(func(r *http.Request) bool {
		return registrytest.Manifests(r) && !strings.Contains(r.URL.Path, "sha256:")
	}, time.Duration(s.Amount*float64(10*time.Second)))
	w.gate.inject(ctx, 2*s.Lasts)
}

// buildkitKilled kills the BuildKit daemon of all nodes during its builds, and starts it again at
// the same address.
func buildkitKilled(ctx context.Context, w *world, _ []*harness.Node, s Step) {
	w.kit.signal(syscall.SIGKILL)
	wait(ctx, s.Lasts/2)
	w.kit.restart()
}

// buildkitPauses stops BuildKit by SIGSTOP, and continues it at the end of the step.
func buildkitPauses(ctx context.Context, w *world, _ []*harness.Node, s Step) {
	w.kit.signal(syscall.SIGSTOP)
	wait(ctx, s.Lasts)
	w.kit.signal(syscall.SIGCONT)
}
