package bench

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// newEndlessRegistry starts a registry that has an image for every number as a tag.
func newEndlessRegistry(b *testing.B) *registrytest.Proxy {
	b.Helper()
	var byDigest sync.Map
	return registrytest.NewHandlerProxy(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !registrytest.Manifests(r) {
			return // status 200: the registry API is present
		}
		name := path.Base(r.URL.Path)
		raw, ok := byDigest.Load(name)
		if !ok {
			n, err := strconv.Atoi(name)
			if err != nil {
				http.NotFound(w, r)
				return
			}
			raw = fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
				`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:%064x"},"layers":[]}`, n)
		}
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(raw.(string))))
		byDigest.Store(digest, raw)
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", digest)
		_, _ = w.Write([]byte(raw.(string))) // the client may be gone
	}))
}

// newHangingRegistry starts an empty registry that never responds to uploads.
func newHangingRegistry(b *testing.B) *registrytest.Proxy {
	b.Helper()
	p := registrytest.NewHandlerProxy(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.NotFound(w, r)
		}
	}))
	p.Hang(registrytest.Uploads, -1)
	return p
}

// Benchmark_RunningBuilds reports the cost of 10,000 running builds for each of three nodes. The
// builds are copies that wait for their registry. RUNNING=n sets another number, and PROFILES=dir
// keeps profiles of the nodes.
func Benchmark_RunningBuilds(b *testing.B) {
	running := 10_000
	if s := os.Getenv("RUNNING"); s != "" {
		var err error
		if running, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	from, to := newEndlessRegistry(b), newHangingRegistry(b)
	c := harness.StartCluster(b, 3, to.Addr, harness.Config{
		"builds":   map[string]any{"runningPerNode": running},
		"registry": map[string]any{"timeout": "30m", "concurrency": running}, // each build always waits for a response
		"log":      map[string]any{"level": "warn"},
		"raft":     map[string]any{"heartbeat": "3s", "election": "3s"}, // all nodes share few cores, and the benchmark measures no failover
	})
	var before [3]int64
	for i, n := range c.Nodes {
		before[i] = harness.RSS(b, n.Pid())
	}
	profiled := profiles(b, c.Nodes)
	var clients sync.WaitGroup
	next := make(chan int)
	for i := range 192 {
		clients.Go(func() {
			for n := range next {
				if _, err := c.Nodes[i%3].Native.BuildImage(b.Context(), &imagebuilderv1.BuildImageRequest{
					RequestId: uuid.NewString(), Source: harness.RefSource(fmt.Sprint(from.Addr, "/many/app:", n)), Requester: fmt.Sprint("r", n%100),
				}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	begin := time.Now()
	for n := range running {
		next <- n
	}
	close(next)
	clients.Wait()
	acknowledged := time.Since(begin)
	testkit.Eventually(b, 10*time.Minute, "all builds run", func() bool {
		sum := 0.0
		for _, n := range c.Nodes {
			sum += gauge(n, "image_builder_attempts_running")
		}
		return sum == float64(running)
	})
	ran := time.Since(begin)
	profiled()
	list := time.Now()
	var listed int
	for b.Loop() {
		listed = 0
		for token := ""; ; {
			res, err := c.Nodes[0].Native.ListBuilds(b.Context(), &imagebuilderv1.ListBuildsRequest{PageSize: 1000, PageToken: token})
			if err != nil {
				b.Fatal(err)
			}
			listed += len(res.Builds)
			if token = res.NextPageToken; token == "" {
				break
			}
		}
	}
	b.ReportMetric(float64(running)/acknowledged.Seconds(), "acknowledged/s")
	b.ReportMetric(ran.Seconds(), "s-until-all-run")
	b.ReportMetric(time.Since(list).Seconds()*1000/float64(b.N), "list-all-ms")
	if listed != running {
		b.Errorf("%d builds were listed", listed)
	}
	for i, n := range c.Nodes {
		b.ReportMetric(float64(harness.RSS(b, n.Pid())-before[i])/(1<<20), fmt.Sprintf("n%d-MiB", i))
		b.ReportMetric(gauge(n, "process_open_fds"), fmt.Sprintf("n%d-descriptors", i))
		b.ReportMetric(gauge(n, "go_goroutines"), fmt.Sprintf("n%d-goroutines", i))
		b.ReportMetric(gauge(n, "image_builder_attempts_running"), fmt.Sprintf("n%d-running", i))
	}
	b.ReportMetric(0, "ns/op")
}

// gauge returns the value of a metric without labels, 0 if there is none.
func gauge(n *harness.Node, name string) (v float64) {
	body, _ := n.Get("http://" + n.Metrics + "/metrics")
	for _, line := range strings.Split(body, "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, _ = strconv.ParseFloat(rest, 64) // metrics are numbers
		}
	}
	return v
}

// profiles starts CPU profiles of the nodes in the folder that PROFILES names. The returned
// function waits for them and adds heap profiles.
func profiles(b *testing.B, nodes []*harness.Node) (keep func()) {
	dir := os.Getenv("PROFILES")
	if dir == "" {
		return func() {}
	}
	save := func(n *harness.Node, kind, query string) {
		// A CPU profile takes as long as the request says.
		res, err := http.Get("http://" + n.Pprof + "/debug/pprof/" + kind + query)
		if err != nil {
			b.Error(err)
			return
		}
		defer res.Body.Close()
		f, err := os.Create(filepath.Join(dir, n.Name+"."+kind))
		if err != nil {
			b.Error(err)
			return
		}
		defer f.Close()
		if _, err := io.Copy(f, res.Body); err != nil {
			b.Error(err)
		}
	}
	var sampling sync.WaitGroup
	for _, n := range nodes {
		sampling.Go(func() { save(n, "profile", "?seconds=30") })
	}
	return func() {
		sampling.Wait()
		for _, n := range nodes {
			save(n, "heap", "")
		}
	}
}
