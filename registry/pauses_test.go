package registry_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// countResponses returns how many responses with a status the metrics have counted.
func countResponses(t *testing.T, metrics prometheus.Gatherer, status string) (n float64) {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "image_builder_registry_requests_total" {
			continue
		}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "code" && l.GetValue() == status {
					n += m.Counter.GetValue()
				}
			}
		}
	}
	return n
}

// TestClient_APauseOfOneCallerHoldsForAll expects that no caller sends a request to a registry
// while a pause lasts that it asked one of them for, and that afterwards all succeed.
func TestClient_APauseOfOneCallerHoldsForAll(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:0")
	for i := 1; i < 8; i++ {
		reg.Push(t, fmt.Sprint("a:", i), registrytest.RandomImage(t, 1, 100))
	}
	p := registrytest.NewProxy(t, reg)
	var mu sync.Mutex
	var asked, early time.Time
	const pause = 2 * time.Second
	p.On(registrytest.Manifests, 1, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		mu.Lock()
		defer mu.Unlock()
		asked = time.Now()
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	p.On(registrytest.All, -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		if !asked.IsZero() && time.Since(asked) < pause {
			early = time.Now()
		}
		mu.Unlock()
		next.ServeHTTP(w, r)
	})
	metrics := prometheus.NewRegistry()
	c := newClient(t, registry.Options{Timeout: time.Minute, Registerer: metrics})
	resolve := func(i int) {
		if _, err := c.Resolve(t.Context(), fmt.Sprintf("%s/a:%d", p.Addr, i), "", all); err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { resolve(0) })
	testkit.Eventually(t, 10*time.Second, "the registry asked the first for a pause", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return !asked.IsZero()
	})
	testkit.Eventually(t, 10*time.Second, "the client has the response", func() bool { return countResponses(t, metrics, "429") == 1 })
	for i := 1; i < 8; i++ {
		wg.Go(func() { resolve(i) })
	}
	wg.Wait()
	if !early.IsZero() {
		t.Errorf("a request was sent %s after the registry asked for a pause of %s", early.Sub(asked), pause)
	}
}
