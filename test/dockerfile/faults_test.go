//go:build faults

package dockerfile

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// startBuilds starts 20 builds with one step each, and returns their ids.
func startBuilds(t *testing.T, w *buildkittest.Node, step func(i int) string) []string {
	t.Helper()
	var ids []string
	for i := range 20 {
		dir := w.Context(t, "FROM base\nRUN "+step(i)+"\n", nil)
		out, errOut, status := harness.CLI(t, w.GRPC, "build", dir, "--detach", "--build-arg", fmt.Sprint("N=", i))
		if status != 0 {
			t.Fatalf("%s %s", out, errOut)
		}
		ids = append(ids, strings.TrimSpace(out))
	}
	return ids
}

// eightLines returns a step that prints eight lines in a little more than four seconds. The mark, a
// digit or nothing, distinguishes its processes from those of other tests.
func eightLines(mark string) func(i int) string {
	return func(i int) string {
		return fmt.Sprintf("for i in $(seq 1 8); do echo line $i of %d; sleep 0.5%s; done", i, mark)
	}
}

// barrier blocks the steps that request its URL until it is released.
type barrier struct {
	url      string
	released chan struct{}
	mu       sync.Mutex
	arrived  map[string]bool
}

func newBarrier(t *testing.T) *barrier {
	t.Helper()
	g := &barrier{released: make(chan struct{}), arrived: map[string]bool{}}
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.arrived[r.URL.Path] = true
		g.mu.Unlock()
		select {
		case <-g.released:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(srv.Close)
	g.url = srv.URL
	return g
}

// step returns a step that waits at the barrier.
func (g *barrier) step(i int) string {
	return fmt.Sprintf("echo step %d && busybox wget -q -O /answer %s/%d", i, g.url, i)
}

// waiting returns how many steps have reached the barrier.
func (g *barrier) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.arrived)
}

// Test_Dockerfile_NodeKilled kills the node in the middle of 20 Dockerfile builds. All builds
// succeed, the first attempts are sealed as infrastructure failures, and the logs of both attempts
// can be read in order.
func Test_Dockerfile_NodeKilled(t *testing.T) {
	w := buildkittest.Start(t, nil)
	g := newBarrier(t)
	ids := startBuilds(t, w, g.step)
	testkit.Eventually(t, 3*time.Minute, "the steps of all builds run", func() bool { return g.waiting() == len(ids) })
	w.Kill()
	w.Run()
	close(g.released)
	ctx := testkit.Context(t, 5*time.Minute)
	retried := 0
	for _, id := range ids {
		b := w.Wait(t, ctx, id)
		if b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED || harness.DigestAt(t, b.Ref) != b.Digest || harness.DigestAt(t, b.BaseRef) != b.Digest {
			t.Errorf("build %s is %s: %s", id, b.GetPhase(), b.GetMessage())
			continue
		}
		if len(b.Attempts) < 2 {
			continue
		}
		retried++
		if a := b.Attempts[0]; a.Blame != imagebuilderv1.Blame_BLAME_INFRASTRUCTURE || a.Counted || a.Log.State != imagebuilderv1.LogState_LOG_STATE_SEALED {
			t.Errorf("build %s: attempt 1 is %v", id, a)
		}
		log, err := w.ReadLog(ctx, id, 0)
		first, second, found := strings.Cut(log, "--- attempt 2 ---")
		if err != nil || !found || !strings.Contains(first, "load build definition") || !strings.Contains(second, "exporting to image") {
			t.Errorf("build %s: the log of both attempts: %v\n%s", id, err, log)
		}
	}
	if retried != len(ids) {
		t.Errorf("only %d builds had a second attempt", retried)
	}
	testkit.Eventually(t, 20*time.Second, "no process of a RUN is left", func() bool { return len(testkit.Processes(t, g.url)) == 0 })
}

// Test_Dockerfile_BuildKitKilled kills BuildKit with -9 in the middle of 20 builds, and starts it
// again only when all builds wait for it. All builds succeed, the interrupted attempts end as
// infrastructure failures, and nothing of the killed daemon is left.
func Test_Dockerfile_BuildKitKilled(t *testing.T) {
	w := buildkittest.Start(t, nil)
	g := newBarrier(t)
	ids := startBuilds(t, w, g.step)
	testkit.Eventually(t, 3*time.Minute, "the steps of all builds run", func() bool { return g.waiting() == len(ids) })
	address := w.Daemon.Addr()
	killed := 0
	for _, pid := range testkit.Processes(t, address) {
		if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(raw)) == "buildkitd" {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed == 0 {
		t.Fatal("no buildkitd was found to kill")
	}
	testkit.Eventually(t, 20*time.Second, "no process of a RUN is left", func() bool { return len(testkit.Processes(t, g.url)) == 0 })
	testkit.Eventually(t, 20*time.Second, "no process of the daemon is left", func() bool { return len(testkit.Processes(t, w.Root)) == 0 })
	ctx := testkit.Context(t, 5*time.Minute)
	// This takes longer than all attempts with their pauses: no build fails because there is no
	// daemon.
	testkit.Eventually(t, 2*time.Minute, "all builds wait for a daemon", func() bool {
		for _, id := range ids {
			b := statusOf(t, w, id)
			if last := b.Attempts[len(b.Attempts)-1]; b.GetPhase() == builds.Failed || len(last.Steps) != 1 || last.Steps[0].Name != "wait for a BuildKit daemon" {
				return false
			}
		}
		return true
	})
	stopDaemon(t, w, w.Daemon)
	close(g.released)
	again := buildkittest.StartDaemon(t, w.Root)
	if again.Addr() != address {
		t.Fatalf("the daemon listens at %s now, not at %s", again.Addr(), address)
	}
	interrupted := 0
	for _, id := range ids {
		b := w.Wait(t, ctx, id)
		if b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED || harness.DigestAt(t, b.Ref) != b.Digest || harness.DigestAt(t, b.BaseRef) != b.Digest {
			t.Errorf("build %s is %s: %s", id, b.GetPhase(), b.GetMessage())
			continue
		}
		for _, a := range b.Attempts[:len(b.Attempts)-1] {
			interrupted++
			if a.Phase != builds.Failed || a.Blame != imagebuilderv1.Blame_BLAME_INFRASTRUCTURE || !a.Counted || !strings.Contains(a.Message, address) {
				t.Errorf("build %s: attempt %d, which the daemon's end interrupted, is %v", id, a.Number, a)
			}
		}
		if len(b.Attempts) > 2 {
			t.Errorf("build %s took %d attempts for one end of the daemon", id, len(b.Attempts))
		}
	}
	if interrupted != len(ids) {
		t.Errorf("%d attempts were interrupted, not the %d that ran", interrupted, len(ids))
	}
	stopDaemon(t, w, again)
	if left := testkit.Processes(t, g.url); len(left) > 0 {
		t.Errorf("processes %v of steps are left", left)
	}
}

// stopDaemon stops a daemon, and checks that no process and no mount of it is left.
func stopDaemon(t *testing.T, w *buildkittest.Node, d *buildkit.Daemon) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := d.Stop(ctx); err != nil {
		t.Errorf("stop the daemon: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), w.Root) {
		t.Errorf("a mount below the daemon's root is left (%v)", err)
	}
	if left := testkit.Processes(t, w.Root); len(left) > 0 {
		t.Errorf("processes %v of the daemon are left", left)
	}
}

// Test_Dockerfile_LongOutput runs a step that writes 100 MB. The log has all of it, and the memory
// of the node stays bounded.
func Test_Dockerfile_LongOutput(t *testing.T) {
	w := buildkittest.Start(t, nil)
	const lines = 1_600_000
	dir := w.Context(t, fmt.Sprintf("FROM base\nRUN yes 0123456789012345678901234567890123456789012345678901234567890 | head -n %d\n", lines), nil)
	before := harness.RSS(t, w.Pid())
	began := time.Now()
	out, errOut, status := harness.CLI(t, w.GRPC, "build", dir, "--detach")
	if status != 0 {
		t.Fatalf("%s %s", out, errOut)
	}
	id := strings.TrimSpace(out)
	var peak int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				peak = max(peak, harness.RSS(t, w.Pid()))
			}
		}
	})
	b := w.Wait(t, testkit.Context(t, 5*time.Minute), id)
	took := time.Since(began)
	close(stop)
	wg.Wait()
	if b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		t.Fatalf("%s: %s", b.GetPhase(), b.GetMessage())
	}
	log, err := w.ReadLog(testkit.Context(t, time.Minute), id, 1)
	if err != nil {
		t.Fatal(err)
	}
	// BuildKit may cut a line to report something else. All bytes of the output must be there.
	got := 0
	for _, m := range regexp.MustCompile(`(?m)^#\d+ \d+\.\d+ (\d*)$`).FindAllStringSubmatch(log, -1) {
		got += len(m[1])
	}
	if want := lines * 61; got != want {
		t.Errorf("the log has %d bytes of output, want %d", got, want)
	}
	t.Logf("%d MB of log in %s; memory before %d MiB, peak %d MiB", len(log)/1e6, took.Round(time.Millisecond), before>>20, peak>>20)
	if grown := peak - before; grown > 300<<20 {
		t.Errorf("the node grew by %d MiB", grown>>20)
	}
}

// Test_Dockerfile_LargeContexts uploads a context of 10,000 files and one with a file of 300 MB.
// The memory of the node stays bounded.
func Test_Dockerfile_LargeContexts(t *testing.T) {
	w := buildkittest.Start(t, nil)
	many := w.Context(t, "FROM base\nCOPY . /ctx\nRUN ls /ctx/d | wc -l > /count\n", nil)
	if err := os.Mkdir(filepath.Join(many, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 10_000 {
		if err := os.WriteFile(filepath.Join(many, "d", fmt.Sprint("f", i)), []byte(fmt.Sprint(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := harness.RSS(t, w.Pid())
	out, errOut, status := harness.CLI(t, w.GRPC, "build", many)
	if status != 0 {
		t.Fatalf("%s %s", out, errOut)
	}
	if got := strings.TrimSpace(harness.FileAt(t, harness.LastLine(out), "count")); got != "10000" {
		t.Errorf("the image has %s files", got)
	}
	big := w.Context(t, "FROM base\nCOPY big /big\nRUN wc -c /big > /count\n", nil)
	f, err := os.Create(filepath.Join(big, "big"))
	if err != nil {
		t.Fatal(err)
	}
	block := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for range 300 {
		if _, err := f.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var peak int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				peak = max(peak, harness.RSS(t, w.Pid()))
			}
		}
	})
	out, errOut, status = harness.CLI(t, w.GRPC, "build", big)
	close(stop)
	wg.Wait()
	if status != 0 {
		t.Fatalf("%s %s", out, errOut)
	}
	t.Logf("memory before %d MiB, peak with a context of 300 MiB %d MiB", before>>20, peak>>20)
	if grown := peak - before; grown > 200<<20 {
		t.Errorf("the node grew by %d MiB for a context of 300 MiB", grown>>20)
	}
}
