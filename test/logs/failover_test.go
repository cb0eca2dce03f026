//go:build faults

package logs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// logCluster is a cluster whose builds run a script and then copy an image.
type logCluster struct {
	*harness.Cluster
	t    testing.TB
	base string
	dir  string
	reg  *registrytest.Registry
}

func newLogCluster(t testing.TB, nodes int, script string, survives bool, over harness.Config) *logCluster {
	t.Helper()
	w := prepareLogCluster(t, nodes, script, survives, over)
	w.start()
	return w
}

// prepareLogCluster is newLogCluster without the start of the nodes.
func prepareLogCluster(t testing.TB, nodes int, script string, survives bool, over harness.Config) *logCluster {
	t.Helper()
	w := &logCluster{t: t, dir: t.TempDir()}
	t.Setenv("IMAGE_BUILDER_TEST_RUNTIME", w.dir)
	t.Setenv("IMAGE_BUILDER_TEST_SCRIPT", script)
	t.Setenv("IMAGE_BUILDER_TEST_SURVIVES", map[bool]string{true: "1"}[survives])
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, "cat"))
	w.reg = reg
	w.base = reg.Addr + "/library/busybox:1"
	w.Cluster = harness.NewCluster(t, nodes, reg.Addr, over)
	return w
}

func (w *logCluster) start() {
	w.t.Helper()
	for _, n := range w.Nodes {
		n.Launch()
	}
	for _, n := range w.Nodes {
		n.AwaitReady()
	}
	w.levelRaised()
}

func (w *logCluster) levelRaised() {
	w.t.Helper()
	testkit.Eventually(w.t, 10*time.Second, "the feature level is raised", func() bool {
		res, err := w.Nodes[0].Members(w.t.Context(), false)
		return err == nil && res.FeatureLevel >= 2
	})
}

// build requests a build and waits until its first attempt exists.
func (w *logCluster) build(ctx context.Context) *imagebuilderv1.Build {
	w.t.Helper()
	res, err := w.Nodes[0].Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
		RequestId: uuid.NewString(), Requester: "r", Source: harness.RefSource(w.base), Force: true,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.await(ctx, res.Build.Id, func(b *imagebuilderv1.Build) bool { return len(b.Attempts) > 0 })
}

// await waits until a build is as expected, and returns it.
func (w *logCluster) await(ctx context.Context, id string, ok func(*imagebuilderv1.Build) bool) (b *imagebuilderv1.Build) {
	w.t.Helper()
	testkit.Eventually(w.t, time.Minute, "the build is as expected", func() bool {
		res, err := w.Running()[0].Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
		b = res.GetBuild()
		return err == nil && ok(b)
	})
	return b
}

func (w *logCluster) node(name string) *harness.Node {
	for _, n := range w.Nodes {
		if n.Name == name {
			return n
		}
	}
	w.t.Fatalf("no node %q", name)
	return nil
}

// reader follows all attempts of a build from the beginning. It continues on another node when a
// node is unavailable, and computes a checksum of each attempt.
type reader struct {
	w     *logCluster
	id    string
	at    int // index of the node
	stays bool
	total atomic.Int64
	sums  map[uint32]string
	sizes map[uint32]int64
}

// follow reads until the end of the build.
func (r *reader) follow(ctx context.Context) error {
	r.sums, r.sizes = map[uint32]string{}, map[uint32]int64{}
	for n := uint32(1); ; n++ {
		h := sha256.New()
		size, found, err := r.attempt(ctx, n, h)
		if err != nil {
			return err
		}
		if !found {
			return nil
		}
		r.sums[n], r.sizes[n] = hex.EncodeToString(h.Sum(nil)), size
	}
}

// attempt reads the log of one attempt to its end.
func (r *reader) attempt(ctx context.Context, n uint32, to io.Writer) (size int64, found bool, err error) {
	for {
		size, found, err = r.stream(ctx, n, size, to)
		switch status.Code(err) {
		case codes.OK:
			return size, found, nil
		case codes.NotFound:
			return size, false, nil
		case codes.Unavailable:
		default:
			return size, found, err
		}
		if ctx.Err() != nil {
			return size, found, ctx.Err()
		}
		if !r.stays {
			r.at++
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (r *reader) stream(ctx context.Context, n uint32, offset int64, to io.Writer) (int64, bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	node := r.w.Nodes[r.at%len(r.w.Nodes)]
	s, err := node.Native.BuildLogs(ctx, &imagebuilderv1.BuildLogsRequest{
		Build: &imagebuilderv1.BuildLogsRequest_Id{Id: r.id}, Attempt: n, Offset: offset, Follow: true,
	})
	found := false
	for err == nil {
		var m *imagebuilderv1.BuildLogsResponse
		if m, err = s.Recv(); err != nil {
			break
		}
		found = true
		if m.Marker {
			continue
		}
		if m.Offset != offset {
			return offset, found, fmt.Errorf("attempt %d: a chunk at offset %d, want %d", n, m.Offset, offset)
		}
		_, _ = to.Write(m.Content)
		offset += int64(len(m.Content))
		r.total.Add(int64(len(m.Content)))
	}
	if errors.Is(err, io.EOF) {
		if found || offset > 0 {
			return offset, true, nil
		}
		// The stream was empty: there is no such attempt, or its log is empty.
		res, err := node.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: r.id}})
		if err != nil {
			return offset, false, err
		}
		return offset, int(n) <= len(res.Build.Attempts), nil
	}
	return offset, found, err
}

// standstill is how long a reader that has not seen the end of a build may see nothing new.
const standstill = 90 * time.Second

// startReaders starts count readers of a build, spread over the nodes. They may take as long as ctx
// allows, but none may stand still.
func (w *logCluster) startReaders(ctx context.Context, id string, count int) (all []*reader, wait func()) {
	var wg sync.WaitGroup
	for i := range count {
		r := &reader{w: w, id: id, at: i}
		all = append(all, r)
		wg.Go(func() {
			ctx, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			watched := make(chan struct{})
			go func() {
				defer close(watched)
				r.watch(ctx, cancel)
			}()
			err := r.follow(ctx)
			if err != nil {
				err = errors.Join(err, context.Cause(ctx))
			}
			cancel(nil)
			<-watched
			if err != nil {
				w.t.Errorf("reader %d, at %d bytes: %v", i, r.total.Load(), err)
			}
		})
	}
	return all, wg.Wait
}

// watch ends the reader if it stands still.
func (r *reader) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for seen := int64(-1); ; {
		before := seen
		if seen = r.total.Load(); seen == before {
			cancel(fmt.Errorf("nothing new for %s", standstill))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(standstill):
		}
	}
}

// checkSame is checkBytes for a build that must have succeeded.
func (w *logCluster) checkSame(ctx context.Context, id string, readers []*reader) {
	w.t.Helper()
	if b := w.checkBytes(ctx, id, readers); b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		w.t.Errorf("the build is %s: %s", b.Phase, b.Message)
	}
}

// checkBytes compares the bytes that the readers saw with the bytes that a late reader sees, through
// each node. It returns the build.
func (w *logCluster) checkBytes(ctx context.Context, id string, readers []*reader) *imagebuilderv1.Build {
	w.t.Helper()
	b := w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return b.EndedAt != nil })
	for _, n := range w.Running() {
		for i := range w.Nodes {
			if w.Nodes[i] == n {
				late := &reader{w: w, id: id, at: i}
				if err := late.follow(ctx); err != nil {
					w.t.Fatal(err)
				}
				readers = append(readers, late)
			}
		}
	}
	want := readers[len(readers)-1]
	for n, sum := range want.sums {
		if a := b.Attempts[n-1]; a.Log.State == imagebuilderv1.LogState_LOG_STATE_SEALED && a.Log.Length != want.sizes[n] {
			w.t.Errorf("attempt %d: the state says %d bytes, readers see %d", n, a.Log.Length, want.sizes[n])
		}
		w.t.Logf("attempt %d on node %s: %d bytes, %s", n, b.Attempts[n-1].Owner, want.sizes[n], sum[:12])
	}
	for i, r := range readers {
		if fmt.Sprint(r.sums) != fmt.Sprint(want.sums) {
			w.t.Errorf("reader %d saw other bytes: %v, want %v", i, r.sizes, want.sizes)
		}
	}
	return b
}

// awaitBytes waits until each reader saw n bytes.
func (w *logCluster) awaitBytes(readers []*reader, n int64) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
		var seen []int64
		least := n
		for _, r := range readers {
			seen = append(seen, r.total.Load())
			least = min(least, r.total.Load())
		}
		if least >= n {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the readers saw only %d bytes", seen)
		}
	}
}

func (w *logCluster) starts() int {
	raw, err := os.ReadFile(filepath.Join(w.dir, "starts"))
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Count(string(raw), "\n")
}

// script returns a script that prints parts of numbered lines, with pauses.
func script(parts int, pause string) string {
	const text = `for i in $(seq 1 %d); do seq -f "part $i line %%050.0f" 1 %d; sleep %s; done`
	return fmt.Sprintf(text, parts, testkit.InSoak(15500, 3875), pause)
}

// part is the number of bytes of a part of the output of script. With the race detector a node
// redacts about 1 MiB a second.
var part = int64(testkit.InSoak(1<<20, 1<<18))

// Test_Logs_OwnerKilled kills the owner in the middle of a log of a hundred parts that nine readers
// follow through three nodes (`make soak`: 100 MB and 30 readers).
func Test_Logs_OwnerKilled(t *testing.T) {
	for _, survives := range []bool{false, true} {
		t.Run(map[bool]string{false: "retried", true: "adopted"}[survives], func(t *testing.T) {
			w := newLogCluster(t, 3, script(100, "0.3"), survives, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
			defer cancel()
			b := w.build(ctx)
			owner := w.node(b.Attempts[0].Owner)
			readers, wait := w.startReaders(ctx, b.Id, testkit.InSoak(30, 9))
			w.awaitBytes(readers, 8*part)
			owner.Kill()
			killed := time.Now()
			b = w.await(ctx, b.Id, func(b *imagebuilderv1.Build) bool {
				return len(b.Attempts) == 2 || b.Attempts[0].Owner != owner.Name
			})
			t.Logf("another owner after %s", time.Since(killed).Round(time.Millisecond))
			before := readers[0].total.Load()
			testkit.Eventually(t, time.Minute, "a reader sees more", func() bool { return readers[0].total.Load() > before })
			t.Logf("a reader saw more after %s", time.Since(killed).Round(time.Millisecond))
			owner.Run()
			wait()
			w.checkSame(ctx, b.Id, readers)
			if n := w.starts(); survives && n != 1 || !survives && n != 2 {
				t.Errorf("%d workloads were started", n)
			}
		})
	}
}

// Test_Logs_OwnerPaused stops the owner's process for longer than its lease, and continues it.
func Test_Logs_OwnerPaused(t *testing.T) {
	for _, survives := range []bool{false, true} {
		t.Run(map[bool]string{false: "retried", true: "adopted"}[survives], func(t *testing.T) {
			w := newLogCluster(t, 3, script(80, "0.5"), survives, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
			defer cancel()
			b := w.build(ctx)
			owner := w.node(b.Attempts[0].Owner)
			readers, wait := w.startReaders(ctx, b.Id, 6)
			w.awaitBytes(readers, 4*part)
			owner.Signal(syscall.SIGSTOP)
			w.awaitOn(ctx, owner, b.Id)
			<-time.After(30 * time.Second) // the fault: the process sleeps
			owner.Signal(syscall.SIGCONT)
			wait()
			w.checkSame(ctx, b.Id, readers)
			if n := w.starts(); survives && n != 1 || !survives && n != 2 {
				t.Errorf("%d workloads were started", n)
			}
		})
	}
}

// awaitOn waits until another node owns the build, as nodes other than former report it.
func (w *logCluster) awaitOn(ctx context.Context, former *harness.Node, id string) {
	w.t.Helper()
	n := w.Others(former)[0]
	begin := time.Now()
	testkit.Eventually(w.t, time.Minute, "another node owns the build", func() bool {
		res, err := n.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
		if err != nil {
			return false
		}
		a := res.Build.Attempts[len(res.Build.Attempts)-1]
		return a.Owner != former.Name
	})
	w.t.Logf("another owner after %s", time.Since(begin).Round(time.Millisecond))
}

// Test_Logs_PowerLoss kills the replica and then the owner. Each of them loses everything that it
// did not fsync.
func Test_Logs_PowerLoss(t *testing.T) {
	for _, survives := range []bool{false, true} {
		t.Run(map[bool]string{false: "retried", true: "adopted"}[survives], func(t *testing.T) {
			t.Setenv("IMAGE_BUILDER_TEST_POWER_LOSS", "1")
			w := newLogCluster(t, 3, script(60, "1"), survives, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
			defer cancel()
			b := w.build(ctx)
			readers, wait := w.startReaders(ctx, b.Id, 9)
			w.awaitBytes(readers, 4*part)
			replica := w.node(b.Attempts[0].Log.Copies[1].Node)
			replica.Kill()
			w.await(ctx, b.Id, func(b *imagebuilderv1.Build) bool { return b.Attempts[0].Log.Copies[1].Node != replica.Name })
			replica.Run()
			w.awaitBytes(readers, 8*part)
			owner := w.node(b.Attempts[0].Owner)
			owner.Kill()
			w.awaitOn(ctx, owner, b.Id)
			w.awaitBytes(readers, 12*part)
			owner.Run()
			wait()
			w.checkSame(ctx, b.Id, readers)
			if n := w.starts(); survives && n != 1 || !survives && n != 2 {
				t.Errorf("%d workloads were started", n)
			}
		})
	}
}

// Test_Logs_ReplicaWiped deletes the data of a node that holds copies of a complete and of a live
// log. The node returns under its name and votes. Its copies are made again on it, because no other
// node could hold them. Then the test kills the owner of the live log.
func Test_Logs_ReplicaWiped(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate") // a build waits near its end while the file exists
	waits := strings.Replace(script(50, "0.2"), "do ", fmt.Sprintf("do [ $i != 45 ] || while [ -e %s ]; do sleep 0.1; done; ", gate), 1)
	w := newLogCluster(t, 3, waits, true, harness.Config{"logs": map[string]any{"copies": 3}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	done := w.build(ctx)
	first, wait := w.startReaders(ctx, done.Id, 3)
	wait()
	w.await(ctx, done.Id, func(b *imagebuilderv1.Build) bool { return b.EndedAt != nil })
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := w.build(ctx)
	readers, wait := w.startReaders(ctx, b.Id, 6)
	w.awaitBytes(readers, part)
	lost := b.Attempts[0].Log.Copies[1]
	node := w.node(lost.Node)
	node.Kill()
	if err := os.RemoveAll(filepath.Join(node.Dir, "data")); err != nil {
		t.Fatal(err)
	}
	node.Run()
	for _, id := range []string{b.Id, done.Id} {
		w.await(ctx, id, func(b *imagebuilderv1.Build) bool {
			again := false
			for _, c := range b.Attempts[0].Log.Copies {
				again = again || c.Node == lost.Node && c.StoreId != lost.StoreId
			}
			return again && len(b.Attempts[0].Log.Copies) == 3
		})
	}
	testkit.Eventually(t, time.Minute, "the node votes again", func() bool {
		res, err := w.Nodes[0].Members(ctx, false)
		voters := 0
		for _, m := range res.GetMembers() {
			if m.Voter {
				voters++
			}
		}
		return err == nil && voters == 3 && len(res.Members) == 3
	})
	b = w.await(ctx, b.Id, func(*imagebuilderv1.Build) bool { return true })
	if b.EndedAt != nil {
		t.Fatal("the build has ended before its owner could be killed")
	}
	owner := w.node(b.Attempts[0].Owner)
	owner.Kill()
	w.awaitOn(ctx, owner, b.Id)
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	wait()
	w.checkSame(ctx, b.Id, readers)
	w.checkSame(ctx, done.Id, first)
}

// Test_Logs_AllCopiesLost kills owner and replica of an attempt for good. The log is closed with a
// marker, and the build succeeds.
func Test_Logs_AllCopiesLost(t *testing.T) {
	w := newLogCluster(t, 5, script(10, "0.5"), false, harness.Config{
		"cluster": map[string]any{"voters": 5}, "logs": map[string]any{"fenceTimeout": "3s"},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	b := w.build(ctx)
	a := b.Attempts[0]
	testkit.Eventually(t, time.Minute, "all nodes vote", func() bool {
		res, err := w.Nodes[0].Members(ctx, false)
		return err == nil && res.FailureTolerance == 2
	})
	w.node(a.Log.Copies[0].Node).Kill9()
	w.node(a.Log.Copies[1].Node).Kill()
	w.node(a.Log.Copies[0].Node).AwaitExit()
	b = w.await(ctx, b.Id, func(b *imagebuilderv1.Build) bool {
		return b.EndedAt != nil && b.Attempts[0].Log.State == imagebuilderv1.LogState_LOG_STATE_LOST
	})
	if b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		t.Errorf("the build is %s: %s", b.Phase, b.Message)
	}
	text, err := w.Running()[0].ReadLog(ctx, b.Id, 0)
	if err != nil || !strings.Contains(text, "the log of attempt 1 was lost") || !strings.Contains(text, "part 10 line") {
		t.Errorf("%v: the log begins with %.300q", err, text)
	}
}
