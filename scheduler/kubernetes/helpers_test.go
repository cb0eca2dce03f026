package kubernetes_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// credentials lets the install do everything, and a request what its rights allow.
type credentials struct{ host string }

func (c credentials) Readable(_ context.Context, r *buildsv1.Rights) (map[string]proxy.Auth, map[string]error) {
	if r.GetAllowAll() {
		return map[string]proxy.Auth{c.host: {User: "install", Password: "install-password"}}, nil
	}
	return nil, nil
}

func (c credentials) Own(_ context.Context, host string) (proxy.Auth, bool, error) {
	return proxy.Auth{User: "install", Password: "install-password"}, host == c.host, nil
}

func startRegistry(t *testing.T) *registrytest.Registry {
	t.Helper()
	return registrytest.Start(t, registrytest.Options{Users: map[string]string{"install": "install-password"}})
}

// newRuntime returns the runtime of a node in a cluster.
func newRuntime(t *testing.T, c *cluster, node, registry string, change ...func(*kubernetes.Options)) *kubernetes.Runtime {
	t.Helper()
	o := kubernetes.Options{
		Client: c.client, Namespace: namespace, Install: "test", Node: node,
		Pod:         kubernetes.PodOptions{Images: kubernetes.Images{Worker: "image-builder:1", BuildKit: "buildkit:1"}},
		Credentials: credentials{registry},
		Dial:        c.dial, AllowLoopback: true,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, f := range change {
		f(&o)
	}
	r, err := kubernetes.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// copyOf returns a workload that copies team/app@digest to the workspace repository.
func copyOf(reg *registrytest.Registry, build, digest string) *workload.Workload {
	return &workload.Workload{
		BuildID: build, Attempt: 1, Epoch: 1,
		Source:   &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: reg.Addr + "/team/app@" + digest}}},
		Ref:      reg.Addr + "/workspace:" + build,
		Rights:   &buildsv1.Rights{AllowAll: true},
		Deadline: time.Now().Add(time.Hour),
	}
}

// sink is a log.
type sink struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	lines   string // of Marker
	running bool
	steps   []*imagebuilderv1.Step
	wrote   chan struct{} // capacity 1
}

func newSink() *sink { return &sink{wrote: make(chan struct{}, 1)} }

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.wrote <- struct{}{}:
	default:
	}
	return s.buf.Write(p)
}

// Marker adds a line that is not part of the output.
func (s *sink) Marker(line string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines += line
	return nil
}

func (s *sink) Offset() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.buf.Len())
}

func (s *sink) Held() int64 { return s.Offset() }

func (s *sink) Flush(context.Context) error { return nil }

func (s *sink) Running() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = true
}

func (s *sink) Steps(steps []*imagebuilderv1.Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.steps = true, steps
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String() + s.lines
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// run is a Run on a goroutine of its own.
type run struct {
	out  workload.Outcome
	err  error
	done chan struct{}
}

func start(ctx context.Context, r *kubernetes.Runtime, w *workload.Workload, s workload.Sink) *run {
	x := &run{done: make(chan struct{})}
	go func() {
		defer close(x.done)
		x.out, x.err = r.Run(ctx, w, s)
	}()
	return x
}

func (x *run) wait(t *testing.T) (workload.Outcome, error) {
	t.Helper()
	select {
	case <-x.done:
	case <-time.After(time.Minute):
		t.Fatal("Run does not return")
	}
	return x.out, x.err
}

// mustFail checks the blame of a failure, and that its message contains all parts.
func mustFail(t *testing.T, err error, blame imagebuilderv1.Blame, parts ...string) {
	t.Helper()
	var f *workload.Failure
	if !errors.As(err, &f) {
		t.Fatalf("got %v, want a failure", err)
	}
	if f.Blame != blame {
		t.Errorf("blames %v, want %v: %s", f.Blame, blame, f.Message)
	}
	for _, p := range parts {
		if !strings.Contains(f.Message, p) {
			t.Errorf("the message does not say %q: %s", p, f.Message)
		}
	}
}
