package wsmanager_test

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

	"go.uber.org/goleak"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	buildID = "0192d3c4-5e6f-7a8b-9c0d-1e2f3a4b5c6d"
	ref     = "registry.example/workspace-images:w1"
	baseRef = "registry.example/base-images:b1"
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// env is a runtime, the fakes that it uses, and a context that ends a hanging test.
type env struct {
	t   *testing.T
	ctx context.Context
	m   *wsmanagertest.Manager
	sup *wsmanagertest.Supervisors
	img *images
	rt  *wsmanager.Runtime
}

func newEnv(t *testing.T, change ...func(*wsmanager.Options)) *env {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	e := &env{t: t, ctx: ctx, m: wsmanagertest.NewManager(t, nil), sup: wsmanagertest.NewSupervisors(t), img: &images{digests: map[string]string{}}}
	e.m.Access(e.sup.Access)
	e.rt = e.runtime(change...)
	return e
}

// runtime returns the runtime of another node.
func (e *env) runtime(change ...func(*wsmanager.Options)) *wsmanager.Runtime {
	e.t.Helper()
	o := wsmanager.Options{
		Address: e.m.Address(), BuilderImage: "registry.example/builder:1", SupervisorRef: "registry.example/supervisor:1", PullSecret: "pull",
		Images: e.img.head, Log: slog.New(slog.DiscardHandler),
		MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond, ReconcileInterval: time.Hour, MissingAfter: 10 * time.Millisecond,
		ImageTimeout: 20 * time.Millisecond, ReplayQuiet: 20 * time.Millisecond,
	}
	for _, c := range change {
		c(&o)
	}
	rt, err := wsmanager.New(o)
	if err != nil {
		e.t.Fatalf("New: %v", err)
	}
	e.t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			e.t.Errorf("Close: %v", err)
		}
	})
	return rt
}

// result is a Run in progress.
type result struct {
	t    *testing.T
	ctx  context.Context
	sink *sink
	stop context.CancelFunc
	done chan struct{}
	out  workload.Outcome
	err  error
}

// run starts a Run of the environment's runtime.
func (e *env) run(w *workload.Workload) *result { return e.runOn(e.rt, w, newSink()) }

func (e *env) runOn(rt *wsmanager.Runtime, w *workload.Workload, s *sink) *result {
	e.t.Helper()
	ctx, cancel := context.WithCancel(e.ctx)
	r := &result{t: e.t, ctx: e.ctx, sink: s, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.out, r.err = rt.Run(ctx, w, s)
	}()
	e.t.Cleanup(func() { cancel(); <-r.done })
	return r
}

func (r *result) wait() (workload.Outcome, error) {
	r.t.Helper()
	select {
	case <-r.done:
	case <-r.ctx.Done():
		r.t.Fatal("Run hangs")
	}
	return r.out, r.err
}

func (r *result) succeeds(want workload.Outcome) {
	r.t.Helper()
	out, err := r.wait()
	if err != nil || out != want {
		r.t.Fatalf("Run = %+v, %v; want %+v", out, err, want)
	}
}

func (r *result) fails(blame imagebuilderv1.Blame, message string) {
	r.t.Helper()
	_, err := r.wait()
	var f *workload.Failure
	if !errors.As(err, &f) || f.Blame != blame || !strings.Contains(f.Message, message) {
		r.t.Fatalf("Run: %#v; want a failure with %v and %q", err, blame, message)
	}
}

// begin starts a Run and waits until its workspace exists.
func (e *env) begin(w *workload.Workload) *result {
	e.t.Helper()
	e.m.AwaitSubscription(e.ctx)
	r := e.run(w)
	e.m.AwaitWorkspace(e.ctx, buildID)
	return r
}

// stopped ends the workspace.
func (e *env) stopped(change ...func(*wsman.WorkspaceStatus)) {
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) {
		s.Phase = wsman.WorkspacePhase_STOPPED
		for _, c := range change {
			c(s)
		}
	})
}

// built returns the outcome of both kinds of workloads after e.img.push.
func built(repo string) workload.Outcome {
	return workload.Outcome{Repository: "registry.example/" + repo, Digest: digestA, SizeBytes: 42}
}

func refWorkload() *workload.Workload {
	base := "docker.io/library/ubuntu@" + digestB
	return &workload.Workload{
		BuildID: buildID, Attempt: 1, Epoch: 1, Ref: ref, BaseRef: base,
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: base}}},
		Rights: &buildsv1.Rights{}, Secrets: &buildsv1.Secrets{},
	}
}

func dockerfileWorkload() *workload.Workload {
	w := refWorkload()
	w.BaseRef = baseRef
	w.Source = &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{
		Context: &imagebuilderv1.DockerfileSource_Git{Git: &imagebuilderv1.GitContext{
			RemoteUri: "https://git.example/a/b", CloneTarget: "abc", TargetMode: imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_COMMIT,
			CheckoutLocation: "b", UpstreamRemoteUri: "https://git.example/up/b", FullClone: true, Config: map[string]string{"k": "v"},
		}},
		DockerfilePath: "b/docker/Dockerfile",
	}}}
	return w
}

// images is a registry.
type images struct {
	mu      sync.Mutex
	digests map[string]string
	err     error
	asked   func(ref string)
}

func (i *images) head(ctx context.Context, ref string) (builds.Image, error) {
	i.mu.Lock()
	digest, err, asked := i.digests[ref], i.err, i.asked
	i.mu.Unlock()
	if asked != nil {
		asked(ref)
	}
	switch {
	case ctx.Err() != nil:
		return builds.Image{}, ctx.Err()
	case err != nil:
		return builds.Image{}, err
	case digest == "":
		return builds.Image{}, &builds.ImageError{Kind: builds.ImageNotFound, Ref: ref, Err: errors.New(ref + " is not there")}
	}
	return builds.Image{Ref: ref, Digest: digest, SizeBytes: 42}, nil
}

func (i *images) push(refs ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, r := range refs {
		i.digests[r] = digestA
	}
}

// sink is a log in memory.
type sink struct {
	mu      sync.Mutex
	log     bytes.Buffer
	offset  int64
	running bool
	changed chan struct{}
	block   chan struct{} // if set, Write waits until it is closed
	err     error
}

func newSink() *sink { return &sink{changed: make(chan struct{})} }

func (s *sink) Write(p []byte) (int, error) {
	if s.block != nil {
		<-s.block
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.offset += int64(len(p))
	s.log.Write(p)
	s.wake()
	return len(p), nil
}

// Marker adds a line that is not part of the raw output.
func (s *sink) Marker(line string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.WriteString("<" + line + ">")
	s.wake()
	return nil
}

// Reposition changes the position in the raw output.
func (s *sink) Reposition(offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = offset
	return nil
}

func (s *sink) Offset() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offset
}

func (s *sink) Held() int64 { return s.Offset() }

func (s *sink) Flush(context.Context) error { return nil }

func (s *sink) Running() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = true
	s.wake()
}

func (s *sink) Steps([]*imagebuilderv1.Step) {}

func (s *sink) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// await waits until the log equals want.
func (s *sink) await(t *testing.T, ctx context.Context, want string) {
	t.Helper()
	s.until(t, ctx, func() bool { return s.log.String() == want })
}

func (s *sink) until(t *testing.T, ctx context.Context, is func() bool) {
	t.Helper()
	for {
		s.mu.Lock()
		ok, changed, got := is(), s.changed, s.log.String()
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("waited in vain for the log, it is %q", got[max(0, len(got)-500):])
		}
	}
}
