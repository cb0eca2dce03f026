package buildkit_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/uuid"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

// busyboxCommands are the commands in the test image.
var busyboxCommands = []string{"cat", "cp", "dd", "echo", "env", "false", "grep", "head", "kill", "ls", "mkdir", "mv", "rm", "sleep", "stat", "test", "touch", "true", "tr", "yes", "sha256sum", "wc", "ps"}

// rig is a daemon, a registry with a busybox image, and a runtime over them.
type rig struct {
	*buildkit.Runtime
	reg      *registrytest.Registry
	base     string // the busybox image
	contexts uploads
	opts     buildkit.Options
}

// newRig creates a rig over the daemon that the tests share.
func newRig(t *testing.T, change ...func(*buildkit.Options)) *rig {
	t.Helper()
	return newRigOn(t, sharedDaemon(t), change...)
}

func newRigOn(t *testing.T, d *buildkit.Daemon, change ...func(*buildkit.Options)) *rig {
	t.Helper()
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, busyboxCommands...))
	return rigWith(t, d, reg, change...)
}

func rigWith(t *testing.T, d *buildkit.Daemon, reg *registrytest.Registry, change ...func(*buildkit.Options)) *rig {
	t.Helper()
	r := &rig{reg: reg, base: reg.Addr + "/library/busybox:1", contexts: uploads{}}
	var auths string
	for user, password := range reg.Users {
		auths = fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, reg.Addr, user, password)
	}
	r.opts = buildkit.Options{
		Daemons:     []buildkit.Address{{URL: d.Addr()}},
		Registry:    newRegistryClient(t, auths),
		Credentials: credentials(reg),
		Contexts:    r.contexts,
		HTTP:        &http.Client{},
		TempDir:     t.TempDir(),
		Log:         slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&r.opts)
	}
	var err error
	if r.Runtime, err = buildkit.New(r.opts); err != nil {
		t.Fatalf("make a runtime: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close the runtime: %v", err)
		}
		left, err := os.ReadDir(r.opts.TempDir)
		if err != nil || len(left) > 0 {
			t.Errorf("contexts are left behind: %v %v", left, err)
		}
	})
	return r
}

// credentials returns a function that gives pushes the first user of the registry, and pulls the
// credential that the rights hold.
func credentials(reg *registrytest.Registry) buildkit.Credentials {
	return func(_ context.Context, host string, rights *buildsv1.Rights, push bool) (string, string, error) {
		if push && host == reg.Addr {
			for user, password := range reg.Users {
				return user, password, nil
			}
		}
		b := rights.GetAdditional()[host]
		return b.GetUsername(), b.GetPassword(), nil
	}
}

// registryClient lets the runtime use a real registry.
type registryClient struct{ client *registry.Client }

func newRegistryClient(t *testing.T, dockerConfig string) registryClient {
	t.Helper()
	o := registry.Options{AllowLoopback: true, Logger: slog.New(slog.DiscardHandler), RetryBase: time.Millisecond, Retries: 1}
	if dockerConfig != "" {
		o.DockerConfigFile = filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(o.DockerConfigFile, []byte(dockerConfig), 0o600); err != nil {
			t.Fatalf("write the docker config: %v", err)
		}
	}
	c, err := registry.New(o)
	if err != nil {
		t.Fatalf("make a registry client: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return registryClient{c}
}

func (c registryClient) Head(ctx context.Context, ref string, r *buildsv1.Rights) (builds.Image, error) {
	img, err := c.client.Head(ctx, ref, rightsOf(r))
	return imageOf(img, err)
}

func (c registryClient) Resolve(ctx context.Context, ref, platform string, r *buildsv1.Rights) (builds.Image, error) {
	img, err := c.client.Resolve(ctx, ref, platform, rightsOf(r))
	return imageOf(img, err)
}

func rightsOf(r *buildsv1.Rights) registry.Rights {
	out := registry.Rights{AllowAll: r.GetAllowAll(), Hosts: r.GetHosts(), Additional: map[string]registry.Basic{}}
	for host, b := range r.GetAdditional() {
		out.Additional[host] = registry.Basic{Username: b.Username, Password: b.Password}
	}
	return out
}

func imageOf(img registry.Image, err error) (builds.Image, error) {
	if err == nil {
		return builds.Image{Ref: img.Ref, Digest: img.Digest, SizeBytes: img.SizeBytes}, nil
	}
	kind := builds.ImageUnavailable
	switch registry.KindOf(err) {
	case registry.NotFound:
		kind = builds.ImageNotFound
	case registry.Unauthorized:
		kind = builds.ImageUnauthorized
	case registry.Invalid:
		kind = builds.ImageInvalid
	}
	return builds.Image{}, &builds.ImageError{Kind: kind, Err: err}
}

// uploads holds contexts by digest.
type uploads map[string]func() io.ReadCloser

func (u uploads) Open(_ context.Context, digest string) (io.ReadCloser, error) {
	if open := u[digest]; open != nil {
		return open(), nil
	}
	return nil, errors.New("no such context")
}

// upload stores a context of files and returns a workload for it.
func (r *rig) upload(t *testing.T, files map[string]string, change ...func(*imagebuilderv1.DockerfileSource)) *workload.Workload {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		addFile(t, w, name, 0o644, files[name])
	}
	if err := w.Close(); err != nil {
		t.Fatalf("write a tar: %v", err)
	}
	return r.uploadTar(t, b.Bytes(), change...)
}

func (r *rig) uploadTar(t *testing.T, archive []byte, change ...func(*imagebuilderv1.DockerfileSource)) *workload.Workload {
	t.Helper()
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(archive))
	r.contexts[digest] = func() io.ReadCloser { return io.NopCloser(bytes.NewReader(archive)) }
	d := &imagebuilderv1.DockerfileSource{Context: &imagebuilderv1.DockerfileSource_Upload{Upload: &imagebuilderv1.UploadedContext{Digest: digest}}}
	return r.workload(d, change...)
}

func (r *rig) workload(d *imagebuilderv1.DockerfileSource, change ...func(*imagebuilderv1.DockerfileSource)) *workload.Workload {
	for _, c := range change {
		c(d)
	}
	return &workload.Workload{
		BuildID: uuid.NewString(), Attempt: 1, Epoch: 1,
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: d}},
		Ref:    r.reg.Addr + "/workspaces:ref", BaseRef: r.reg.Addr + "/bases:ref",
		Rights: &buildsv1.Rights{}, Secrets: &buildsv1.Secrets{},
	}
}

func addFile(t *testing.T, w *tar.Writer, name string, mode int64, content string) {
	t.Helper()
	h := &tar.Header{Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(1700000000, 0)}
	if err := w.WriteHeader(h); err != nil {
		t.Fatalf("write a tar: %v", err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatalf("write a tar: %v", err)
	}
}

// sink records the output and the steps of a workload.
type sink struct {
	mu      sync.Mutex
	log     bytes.Buffer
	steps   []*imagebuilderv1.Step
	running bool
}

var _ workload.Sink = (*sink)(nil)

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *sink) Offset() int64 { return 0 }

func (s *sink) Held() int64 { return 0 }

func (s *sink) Flush(context.Context) error { return nil }

func (s *sink) Running() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = true
}

func (s *sink) Steps(steps []*imagebuilderv1.Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = steps
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// step returns the step whose name contains part, or nil if there is none.
func (s *sink) step(part string) *imagebuilderv1.Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.steps {
		if strings.Contains(st.Name, part) {
			return st
		}
	}
	return nil
}

// mustRun runs a workload that must succeed.
func (r *rig) mustRun(t *testing.T, w *workload.Workload) (workload.Outcome, *sink) {
	t.Helper()
	s := &sink{}
	out, err := r.Run(t.Context(), w, s)
	if err != nil {
		t.Fatalf("run: %v\nlog:\n%s", err, s.text())
	}
	return out, s
}

// mustFail runs a workload that must fail with that blame, and returns the message.
func (r *rig) mustFail(t *testing.T, w *workload.Workload, blame imagebuilderv1.Blame, parts ...string) string {
	t.Helper()
	s := &sink{}
	out, err := r.Run(t.Context(), w, s)
	var f *workload.Failure
	if !errors.As(err, &f) {
		t.Fatalf("run: outcome %+v, error %v, want a failure\nlog:\n%s", out, err, s.text())
	}
	if f.Blame != blame {
		t.Errorf("blame %v, want %v: %s", f.Blame, blame, f.Message)
	}
	for _, part := range parts {
		if !strings.Contains(f.Message, part) {
			t.Errorf("message lacks %q:\n%s", part, f.Message)
		}
	}
	return f.Message
}
