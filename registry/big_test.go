package registry_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// zeros reads the given number of zero bytes.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

func digestOf(tb testing.TB, r io.Reader) v1.Hash {
	tb.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		tb.Fatal(err)
	}
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// BenchmarkCopy_OfALayer copies an image with one layer of LAYER_BYTES (default 64 MiB; 5368709120
// for 5 GiB) from one HTTP server to another. It fails if memory grows with the size of the layer.
func BenchmarkCopy_OfALayer(b *testing.B) {
	size := int64(64 << 20)
	if s := os.Getenv("LAYER_BYTES"); s != "" {
		var err error
		if size, err = strconv.ParseInt(s, 10, 64); err != nil {
			b.Fatal(err)
		}
	}
	layer, config := digestOf(b, &zeros{size}), "{}"
	m, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: 2, Digest: digestOf(b, strings.NewReader(config))},
		Layers: []v1.Descriptor{{MediaType: types.OCIUncompressedLayer, Size: size, Digest: layer}},
	})
	if err != nil {
		b.Fatal(err)
	}
	src := registrytest.NewHandlerProxy(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, layer.String()):
			w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
			_, _ = io.Copy(w, &zeros{size}) // the client may be gone
		case registrytest.Blobs(r):
			_, _ = io.WriteString(w, config)
		case registrytest.Manifests(r):
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			_, _ = w.Write(m)
		}
	}))
	var got int64
	dst := registrytest.NewHandlerProxy(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodHead:
			w.WriteHeader(http.StatusNotFound)
		case http.MethodPost:
			w.Header().Set("Location", r.URL.Path+"1")
			w.WriteHeader(http.StatusAccepted)
		case http.MethodPut:
			n, _ := io.Copy(io.Discard, r.Body)
			if n > 1<<10 {
				got = n
			}
			w.WriteHeader(http.StatusCreated)
		}
	}))
	c, err := registry.New(registry.Options{AllowLoopback: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	ref := src.Addr + "/a@" + digestOf(b, strings.NewReader(string(m))).String()
	b.SetBytes(size)
	var peak atomic.Uint64 // heap in use by the servers and the client
	stop, sampled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sampled)
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		var m runtime.MemStats
		for {
			select {
			case <-stop:
				return
			case <-t.C:
				runtime.ReadMemStats(&m)
				peak.Store(max(peak.Load(), m.HeapInuse))
			}
		}
	}()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.ResetTimer()
	for range b.N {
		got = 0
		if _, err := c.Copy(b.Context(), ref, all, dst.Addr+"/b", all, io.Discard); err != nil || got != size {
			b.Fatalf("%d of %d bytes: %v", got, size, err)
		}
	}
	b.StopTimer()
	close(stop)
	<-sampled
	runtime.ReadMemStats(&after)
	perCopy := (after.TotalAlloc - before.TotalAlloc) / uint64(b.N)
	b.ReportMetric(float64(perCopy)/(1<<20), "MiB-allocated/op")
	b.ReportMetric(float64(peak.Load())/(1<<20), "MiB-heap-peak")
	if perCopy > 16<<20 {
		b.Errorf("%d MiB were allocated for each copy", perCopy>>20)
	}
}
