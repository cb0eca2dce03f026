//go:build faults

package test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// processes answers the pids whose command line holds a text.
func processes(t testing.TB, text string) []int {
	t.Helper()
	var pids []int
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		raw, err := os.ReadFile(e)
		if err != nil {
			continue
		}
		if strings.Contains(strings.ReplaceAll(string(raw), "\x00", " "), text) {
			pid, err := strconv.Atoi(strings.Split(e, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// start20 starts 20 builds whose RUN takes a while, and answers their ids.
func (w *workshop) start20(t *testing.T, mark string) []string {
	t.Helper()
	var ids []string
	for i := range 20 {
		dir := w.dir(t, fmt.Sprintf("FROM base\nRUN for i in $(seq 1 8); do echo line $i of %d; sleep 0.5%s; done\n", i, mark), nil)
		out, errOut, status := cli(t, w.GRPC, "build", dir, "--detach", "--build-arg", fmt.Sprint("N=", i))
		if status != 0 {
			t.Fatalf("%s %s", out, errOut)
		}
		ids = append(ids, strings.TrimSpace(out))
	}
	return ids
}

// Test_Dockerfile_NodeKilled kills the node in the middle of 20 Dockerfile
// builds: all succeed, the first attempts are sealed as infrastructure
// failures, and the logs of both attempts can be read in order.
func Test_Dockerfile_NodeKilled(t *testing.T) {
	w := newWorkshop(t, nil)
	ids := w.start20(t, "1")
	harness.Eventually(t, time.Minute, "output was written", func() bool {
		log, _ := w.logNow(t, ids[19])
		return strings.Contains(log, "line 1 of")
	})
	w.Kill()
	w.Run()
	ctx := timeout(t, 5*time.Minute)
	retried := 0
	for _, id := range ids {
		b := w.Wait(t, ctx, id)
		if b.GetPhase() != succeeded || digestAt(t, b.Ref) != b.Digest || digestAt(t, b.BaseRef) != b.Digest {
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
		if err != nil || !found || !strings.Contains(first, "load build definition") || !strings.Contains(second, "line 8 of") {
			t.Errorf("build %s: the log of both attempts: %v\n%s", id, err, log)
		}
	}
	if retried < 15 {
		t.Errorf("only %d builds had a second attempt", retried)
	}
	harness.Eventually(t, 20*time.Second, "no process of a RUN is left", func() bool { return len(processes(t, "sleep 0.51")) == 0 })
}

// Test_Dockerfile_BuildKitKilled kills BuildKit with -9 in the middle of 20
// builds and starts it again: all succeed after retries, and nothing of the
// killed daemon is left.
func Test_Dockerfile_BuildKitKilled(t *testing.T) {
	w := newWorkshop(t, nil)
	ids := w.start20(t, "2")
	harness.Eventually(t, time.Minute, "output was written", func() bool {
		log, _ := w.logNow(t, ids[19])
		return strings.Contains(log, "line 1 of")
	})
	address := w.bk.Addr()
	killed := 0
	for _, pid := range processes(t, address) {
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
	harness.Eventually(t, 20*time.Second, "no process of a RUN is left", func() bool { return len(processes(t, "sleep 0.52")) == 0 })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.bk.Stop(ctx); err != nil {
		t.Logf("stop what is left of the daemon: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), w.root) {
		t.Errorf("a mount below the daemon's root is left (%v)", err)
	}
	again := startBuildKit(t, w.root)
	if again.Addr() != address {
		t.Fatalf("the daemon listens at %s now, not at %s", again.Addr(), address)
	}
	long := timeout(t, 5*time.Minute)
	for _, id := range ids {
		b := w.Wait(t, long, id)
		if b.GetPhase() != succeeded {
			t.Errorf("build %s is %s: %s", id, b.GetPhase(), b.GetMessage())
		}
	}
}

// Test_Dockerfile_LongOutput has a step write 100 MB: the log has all of it,
// and the node's memory stays bounded.
func Test_Dockerfile_LongOutput(t *testing.T) {
	w := newWorkshop(t, nil)
	const lines = 1_600_000
	dir := w.dir(t, fmt.Sprintf("FROM base\nRUN yes 0123456789012345678901234567890123456789012345678901234567890 | head -n %d\n", lines), nil)
	before := rss(t, w.Pid())
	began := time.Now()
	out, errOut, status := cli(t, w.GRPC, "build", dir, "--detach")
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
				peak = max(peak, rss(t, w.Pid()))
			}
		}
	})
	b := w.Wait(t, timeout(t, 5*time.Minute), id)
	took := time.Since(began)
	close(stop)
	wg.Wait()
	if b.GetPhase() != succeeded {
		t.Fatalf("%s: %s", b.GetPhase(), b.GetMessage())
	}
	log, err := w.ReadLog(timeout(t, time.Minute), id, 1)
	if err != nil {
		t.Fatal(err)
	}
	// A line may be cut where BuildKit reports something in between: the
	// output itself has to be there to the last byte.
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

// Test_Dockerfile_LargeContexts uploads 10,000 files, and one of 300 MB; the
// node's memory stays bounded.
func Test_Dockerfile_LargeContexts(t *testing.T) {
	w := newWorkshop(t, nil)
	many := w.dir(t, "FROM base\nCOPY . /ctx\nRUN ls /ctx/d | wc -l > /count\n", nil)
	if err := os.Mkdir(filepath.Join(many, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 10_000 {
		if err := os.WriteFile(filepath.Join(many, "d", fmt.Sprint("f", i)), []byte(fmt.Sprint(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := rss(t, w.Pid())
	out, errOut, status := cli(t, w.GRPC, "build", many)
	if status != 0 {
		t.Fatalf("%s %s", out, errOut)
	}
	if got := strings.TrimSpace(content(t, lastLine(out), "count")); got != "10000" {
		t.Errorf("the image has %s files", got)
	}
	big := w.dir(t, "FROM base\nCOPY big /big\nRUN wc -c /big > /count\n", nil)
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
				peak = max(peak, rss(t, w.Pid()))
			}
		}
	})
	out, errOut, status = cli(t, w.GRPC, "build", big)
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
