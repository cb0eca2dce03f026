package kubernetes_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// shared is the BuildKit daemon of all tests.
var shared struct {
	sync.Once
	daemon *buildkit.Daemon
	root   string
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.daemon != nil {
		if err := shared.daemon.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "stop the shared daemon:", err)
			code = 1
		}
	}
	if shared.root != "" {
		_ = os.RemoveAll(shared.root)
	}
	os.Exit(code)
}

func daemon(t *testing.T) string {
	t.Helper()
	binary, err := filepath.Abs("../../bin/buildkitd")
	if err == nil {
		_, err = os.Stat(binary)
	}
	if err != nil {
		t.Fatalf("these tests need bin/buildkitd: make buildkitd: %v", err)
	}
	shared.Do(func() {
		if shared.root, shared.err = os.MkdirTemp("", "kubernetes-test-"); shared.err != nil {
			return
		}
		shared.daemon, shared.err = buildkit.StartDaemon(context.Background(), buildkit.DaemonOptions{Binary: binary, Root: shared.root, Logger: slog.New(slog.DiscardHandler)})
	})
	if shared.err != nil {
		t.Fatalf("start a daemon: %v", shared.err)
	}
	return shared.daemon.Addr()
}

// site is an install with a registry that has a private base image.
type site struct {
	*cluster
	reg *registrytest.Registry
}

func newSite(t *testing.T) site {
	t.Helper()
	s := site{newCluster(t), startRegistry(t)}
	s.buildkit = daemon(t)
	s.reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, "cat", "echo", "false", "sleep", "test", "wc", "ls"))
	s.startKubelet()
	return s
}

func (s site) runtime(t *testing.T, node string) *kubernetes.Runtime {
	t.Helper()
	return newRuntime(t, s.cluster, node, s.reg.Addr, func(o *kubernetes.Options) {
		o.CacheRepository, o.CacheWrite = s.reg.Addr+"/cache", true
		o.ContextRef = func(digest string) string {
			return s.reg.Addr + "/base:context-" + strings.TrimPrefix(digest, "sha256:")
		}
	})
}

// build uploads a context and returns its workload.
func (s site) build(t *testing.T, id, dockerfile string) *workload.Workload {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, content := range map[string]string{"Dockerfile": strings.ReplaceAll(dockerfile, "BASE", s.reg.Addr+"/library/busybox:1"), "file": "content\n"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(archive.Bytes())
	digest := "sha256:" + hex.EncodeToString(sum[:])
	file := filepath.Join(t.TempDir(), "context.tar")
	if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := registry.New(registry.Options{AllowLoopback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	rights := registry.Rights{Additional: map[string]registry.Basic{s.reg.Addr: {Username: "install", Password: "install-password"}}}
	if err := client.PutFile(t.Context(), s.reg.Addr+"/base:context-"+hex.EncodeToString(sum[:]), file, digest, rights); err != nil {
		t.Fatal(err)
	}
	return &workload.Workload{
		BuildID: id, Attempt: 1, Epoch: 1,
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{
			Context:   &imagebuilderv1.DockerfileSource_Upload{Upload: &imagebuilderv1.UploadedContext{Digest: digest}},
			SecretIds: []string{"password"},
			NoCache:   true, // all tests share the daemon
		}}},
		Ref: s.reg.Addr + "/workspace:" + id, BaseRef: s.reg.Addr + "/base:" + id,
		Rights:   &buildsv1.Rights{AllowAll: true},
		Secrets:  &buildsv1.Secrets{Build: map[string][]byte{"password": []byte("the-build-secret")}},
		Deadline: time.Now().Add(time.Hour),
	}
}

// Test_Run_Dockerfile builds from a private base with BuildKit, which reaches the registry only
// through the proxy.
func Test_Run_Dockerfile(t *testing.T) {
	s := newSite(t)
	w := s.build(t, "d1", "FROM BASE\nCOPY file /file\nRUN --mount=type=secret,id=password wc -c /run/secrets/password && echo the-step-ran\n")
	log := newSink()
	out, err := s.runtime(t, "node-a").Run(testContext(t), w, log)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.text())
	}
	if out.Repository != s.reg.Addr+"/base" || out.SizeBytes == 0 {
		t.Errorf("outcome %+v", out)
	}
	s.reg.Pull(t, "base@"+out.Digest)
	if !strings.Contains(log.text(), "the-step-ran") || !strings.Contains(log.text(), "16 /run/secrets/password") {
		t.Errorf("output: %s", log.text())
	}
	if strings.Contains(log.text(), "/pull/") || !strings.Contains(log.text(), "FROM "+s.reg.Addr+"/library/busybox:1") {
		t.Errorf("the output names images as the proxy does: %s", log.text())
	}
	if len(log.steps) < 3 {
		t.Errorf("steps: %v", log.steps)
	}
	if s.reg.Digest(t, "base:d1") != "" {
		t.Error("the pod tagged the image")
	}
	cached := false
	for _, r := range s.reg.Requests() {
		cached = cached || r.Method == "PUT" && strings.Contains(r.URI, "/cache/manifests/cache-")
	}
	if !cached {
		t.Error("the build cache was not written")
	}
}

// Test_Run_Dockerfile_Fails checks the blame of failures.
func Test_Run_Dockerfile_Fails(t *testing.T) {
	s := newSite(t)
	r := s.runtime(t, "node-a")
	t.Run("exit code", func(t *testing.T) {
		w := s.build(t, "f1", "FROM BASE\nRUN --mount=type=secret,id=password cat /run/secrets/password; false\n")
		w.Secrets.Build["password"] = []byte("the-build-secret\nits-second-line\n")
		_, err := r.Run(testContext(t), w, newSink())
		mustFail(t, err, builds.BlameUser, "exit code")
		testkit.Eventually(t, 20*time.Second, "the pod has ended", func() bool { return s.pod(w.Name()).Status.ContainerStatuses[0].State.Terminated != nil })
		if m := s.pod(w.Name()).Status.ContainerStatuses[0].State.Terminated.Message; !strings.Contains(m, "exit code") || strings.Contains(m, "the-build-secret") || strings.Contains(m, "its-second-line") {
			t.Errorf("termination message: %s", m)
		}
	})
	t.Run("private base", func(t *testing.T) {
		w := s.build(t, "f2", "FROM BASE\nRUN echo hi\n")
		w.Rights = &buildsv1.Rights{}
		_, err := r.Run(testContext(t), w, newSink())
		mustFail(t, err, builds.BlameUser, "library/busybox:1")
	})
	t.Run("no base", func(t *testing.T) {
		w := s.build(t, "f3", "FROM "+s.reg.Addr+"/library/none:1\n")
		_, err := r.Run(testContext(t), w, newSink())
		mustFail(t, err, builds.BlameUser, "library/none:1", "does not exist")
	})
}

// Test_Run_Adopted hands a build over to another owner while it writes. The log holds all of its
// output once.
func Test_Run_Adopted(t *testing.T) {
	s := newSite(t)
	var script strings.Builder
	for i := range 40 {
		fmt.Fprintf(&script, "echo line-%02d; sleep 0.05; ", i)
	}
	w := s.build(t, "a1", "FROM BASE\nRUN "+script.String()+"\n")
	log := newSink()
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, s.runtime(t, "node-a"), w, log)
	testkit.Eventually(t, 20*time.Second, "the build writes", func() bool { return strings.Contains(log.text(), " line-05\n") })
	cancel()
	if _, err := x.wait(t); err != context.Canceled {
		t.Fatalf("the former owner: %v", err)
	}
	w.Epoch = 2
	out, err := s.runtime(t, "node-b").Run(testContext(t), w, log)
	if err != nil {
		t.Fatal(err)
	}
	s.reg.Pull(t, "base@"+out.Digest)
	// The step's name and its output contain each line once.
	at := 0
	for i := range 40 {
		line := fmt.Sprintf(" line-%02d\n", i)
		if n := strings.Count(log.text(), line); n != 1 {
			t.Errorf("%q is %d times in the log", line, n)
		}
		if p := strings.Index(log.text(), line); p < at {
			t.Errorf("%q comes too early", line)
		} else {
			at = p
		}
	}
}
