package kubernetes_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// heldSink is a log whose other copies hold less than the owner, until they are back.
type heldSink struct {
	*sink
	held *atomic.Int64 // less than 0: everything
}

func (s heldSink) Held() int64 {
	if n := s.held.Load(); n >= 0 {
		return n
	}
	return s.Offset()
}

func (s heldSink) Flush(ctx context.Context) error {
	if s.held.Load() >= 0 {
		<-ctx.Done()
	}
	return ctx.Err()
}

// Test_Run_CopyBehindTheSpool follows a pod whose output exceeds its spool, while the copy of the log on
// the next owner is behind by more than the spool keeps. The owner must not acknowledge output that the
// next owner would not find, and must acknowledge it once the copy is back, although no output arrives.
func Test_Run_CopyBehindTheSpool(t *testing.T) {
	const total, keep, held = 24 << 20, 8 << 20, 1 << 20
	for name, lost := range map[string]bool{"the owner is lost": true, "the copy is back": false} {
		t.Run(name, func(t *testing.T) {
			reg, c := startRegistry(t), newCluster(t)
			w := copyOf(reg, "b1", reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10)))
			ctx := testContext(t)
			former, next := newRuntime(t, c, "node-a", reg.Addr), newRuntime(t, c, "node-b", reg.Addr)
			pod := &longPod{total: total, keep: keep, changed: make(chan struct{})}
			c.tasks.Go(func() { pod.serve(c, w.Name()) })
			s := heldSink{newSink(), &atomic.Int64{}}
			s.held.Store(held)
			running, lose := context.WithCancel(ctx)
			defer lose()
			x := start(running, former, w, s)
			testkit.Eventually(t, 30*time.Second, "the owner has all output that the pod lets it have", func() bool { return s.Offset() >= keep })
			if !lost {
				s.held.Store(-1)
				if _, err := x.wait(t); err != nil || s.Offset() != total {
					t.Errorf("the owner has %d bytes of %d: %v", s.Offset(), total, err)
				}
				return
			}
			testkit.Eventually(t, 30*time.Second, "the owner has acknowledged what the copy has", func() bool { return pod.acknowledged() >= held })
			lose()
			<-x.done
			if n := pod.acknowledged(); n > held {
				t.Errorf("the owner has acknowledged %d bytes, but the copy has %d", n, held)
			}
			w.Epoch = 2
			behind := newSink()
			if _, err := behind.Write(make([]byte, held)); err != nil {
				t.Fatal(err)
			}
			if _, err := next.Run(ctx, w, behind); err != nil {
				t.Fatalf("the next owner had %d bytes, and its Run fails: %v", held, err)
			}
			if n := behind.Offset(); n != total {
				t.Errorf("the next owner has %d bytes of %d", n, total)
			}
		})
	}
}

// Test_Run_SmallProgressOfACopy: output of less than ackBytes that the next owner would find is
// acknowledged too, because the worker may need just that to make room.
func Test_Run_SmallProgressOfACopy(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	w := copyOf(reg, "b1", reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10)))
	pod := &longPod{total: 12 << 20, keep: 8 << 20, changed: make(chan struct{})}
	c.tasks.Go(func() { pod.serve(c, w.Name()) })
	s := heldSink{newSink(), &atomic.Int64{}}
	s.held.Store(podSegment - 1000)
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, newRuntime(t, c, "node-a", reg.Addr), w, s)
	testkit.Eventually(t, 30*time.Second, "the first output is acknowledged", func() bool { return pod.acknowledged() == podSegment-1000 })
	s.held.Store(podSegment)
	testkit.Eventually(t, 30*time.Second, "the pod has room again", func() bool { return s.Offset() == pod.total })
	cancel()
	<-x.done
}

// Test_Run_CopyHangs: the end of the output waits for a copy of the log that makes no progress no longer
// than the timeout. The attempt is not counted then (workload.ErrCopiesAway).
func Test_Run_CopyHangs(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	w := copyOf(reg, "b1", reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10)))
	pod := &longPod{total: 1 << 20, keep: 8 << 20, changed: make(chan struct{})}
	c.tasks.Go(func() { pod.serve(c, w.Name()) })
	r := newRuntime(t, c, "node-a", reg.Addr, func(o *kubernetes.Options) { o.CopiesTimeout = 100 * time.Millisecond })
	s := heldSink{newSink(), &atomic.Int64{}}
	if out, err := start(testContext(t), r, w, s).wait(t); !errors.Is(err, workload.ErrCopiesAway) {
		t.Errorf("Run: %+v, %v", out, err)
	}
}

// Test_Run_CopyHangs_SpoolIsFull: a workload that waits for room in its spool, because a copy of the log
// makes no progress, ends after the timeout and not at its deadline. The attempt is not counted then.
func Test_Run_CopyHangs_SpoolIsFull(t *testing.T) {
	const keep = 16 << 20
	reg, c := startRegistry(t), newCluster(t)
	w := copyOf(reg, "b1", reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10)))
	pod := &longPod{total: 2 * keep, keep: keep, changed: make(chan struct{})}
	c.tasks.Go(func() { pod.serve(c, w.Name()) })
	r := newRuntime(t, c, "node-a", reg.Addr, func(o *kubernetes.Options) { o.CopiesTimeout, o.SpoolBytes = 200*time.Millisecond, keep })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := start(ctx, r, w, heldSink{newSink(), &atomic.Int64{}}).wait(t)
	var end *workload.Failure
	if !errors.Is(err, workload.ErrCopiesAway) || !errors.As(err, &end) || end.Remains || !strings.Contains(end.Message, "room for its output") {
		t.Errorf("Run: %+v, %v", out, err)
	}
}

// longPod is a pod whose workload prints total bytes. Like the spool of a worker, it drops acknowledged
// output in segments once it has keep bytes, and the workload waits while none may be dropped.
type longPod struct {
	total, keep int64

	mu      sync.Mutex
	acked   int64
	changed chan struct{} // closed and replaced when acked changes
}

const podSegment = 4 << 20

func (p *longPod) acknowledged() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked
}

// kept returns the range of the output that the pod has, and a channel that is closed when it changes.
func (p *longPod) kept() (first, end int64, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first = max(0, min(p.acked, p.total-p.keep)) / podSegment * podSegment
	return first, min(p.total, first+p.keep), p.changed
}

// serve runs the pod once it exists, until the test ends.
func (p *longPod) serve(c *cluster, name string) {
	secret := c.await(c.ctx, name)
	if secret == nil {
		return
	}
	job := &podapi.Job{}
	if err := json.Unmarshal(secret.Data["job.json"], job); err != nil {
		c.t.Error(err)
		return
	}
	cert, err := tls.X509KeyPair([]byte(job.Certificate), []byte(job.Key))
	if err != nil {
		c.t.Error(err)
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Error(err)
		return
	}
	srv := &http.Server{Handler: p, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}, ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(c.ctx, func() { _ = srv.Close() })
	defer stop()
	c.mu.Lock()
	c.addrs["10.0.0.1:8443"] = l.Addr().String()
	c.mu.Unlock()
	c.status(name, func(s *corev1.PodStatus) {
		s.Phase, s.PodIP = corev1.PodRunning, "10.0.0.1"
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
	_ = srv.ServeTLS(l, "", "") // returns an error once it is closed
}

func (p *longPod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	offset, _ := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	switch r.URL.Path {
	case podapi.PathAck:
		p.mu.Lock()
		defer p.mu.Unlock()
		if offset > p.acked {
			p.acked = offset
			close(p.changed)
			p.changed = make(chan struct{})
		}
	case podapi.PathState:
		p.state(w, r)
	case podapi.PathOutput:
		if first, _, _ := p.kept(); offset < first {
			http.Error(w, "this output is no longer kept", http.StatusGone)
			return
		}
		p.output(w, r, offset)
	}
}

// state reports the result once the workload has printed everything.
func (p *longPod) state(w http.ResponseWriter, r *http.Request) {
	version, _ := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	st := podapi.State{Version: 1, Running: true}
	for version >= 1 {
		_, end, changed := p.kept()
		if end == p.total {
			st.Version, st.Result = 2, &podapi.Result{Digest: "sha256:aa", Length: p.total}
			break
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
	_ = json.NewEncoder(w).Encode(st)
}

// output sends the output from offset on, up to its end.
func (p *longPod) output(w http.ResponseWriter, r *http.Request, offset int64) {
	buf := make([]byte, 64<<10)
	for offset < p.total {
		_, end, changed := p.kept()
		if offset < end {
			n, err := w.Write(buf[:min(int64(len(buf)), end-offset)])
			if offset += int64(n); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			continue
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler) // so that the output does not look complete
		}
	}
}
