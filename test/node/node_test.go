package node

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

func mustBuild(t *testing.T, n *harness.Node, req *imagebuilderv1.BuildImageRequest) *imagebuilderv1.Build {
	t.Helper()
	ctx := testkit.Context(t, time.Minute)
	res, err := n.Native.BuildImage(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	b := n.Wait(t, ctx, res.Build.Id)
	if b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		t.Fatalf("build is %s: %s", b.GetPhase(), b.GetMessage())
	}
	return b
}

func Test_RefBuild_SameHostIsAMount(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 3, 1<<20))
	n := harness.Start(t, reg.Addr, nil)
	b := mustBuild(t, n, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(reg.Addr + "/team/app:1"), Requester: "alice"})
	if b.Digest != digest {
		t.Errorf("got digest %s, want that of the base image, %s", b.Digest, digest)
	}
	if b.BaseRef != reg.Addr+"/team/app@"+digest {
		t.Errorf("base ref %s", b.BaseRef)
	}
	mounts, uploads := transfers(reg)
	if mounts != 4 || uploads != 0 {
		t.Errorf("%d blobs were mounted and %d uploaded, want 4 and 0", mounts, uploads)
	}
	log, err := n.ReadLog(testkit.Context(t, time.Minute), b.Id, 1)
	if err != nil || !strings.Contains(log, "mounted") {
		t.Errorf("log %q, %v", log, err)
	}
	if a := b.Attempts[0]; a.Log.Length != int64(len(log)) || a.Owner != "n1" || a.Runtime != "copy" {
		t.Errorf("attempt %v, log of %d bytes", a, len(log))
	}
	// The image exists: the request is done at once, without a build.
	res, err := n.Native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(reg.Addr + "/team/app:1")})
	if err != nil || !res.Exists || res.Build.Digest != digest || res.Build.Id != "" {
		t.Errorf("existing image: %v, %v", res, err)
	}
}

func transfers(reg *registrytest.Registry) (mounts, uploads int) {
	for _, r := range reg.Requests() {
		switch {
		case r.Method == http.MethodPost && strings.Contains(r.URI, "workspace-images") && strings.Contains(r.URI, "mount=") && r.Status == 201:
			mounts++
		case r.Method == http.MethodPut && strings.Contains(r.URI, "workspace-images") && strings.Contains(r.URI, "/blobs/uploads/"):
			uploads++
		}
	}
	return mounts, uploads
}

func Test_RefBuild_OtherHostIsCopied(t *testing.T) {
	from, to := registrytest.Start(t, registrytest.Options{}), registrytest.Start(t, registrytest.Options{})
	digest := from.Push(t, "team/app:1", registrytest.RandomImage(t, 2, 1<<20))
	n := harness.Start(t, to.Addr, nil)
	if b := mustBuild(t, n, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(from.Addr + "/team/app:1")}); b.Digest != digest {
		t.Errorf("digest %s, want %s", b.Digest, digest)
	}
	if mounts, uploads := transfers(to); mounts != 0 || uploads != 3 {
		t.Errorf("%d blobs were mounted and %d uploaded, want 0 and 3", mounts, uploads)
	}
}

// Test_RefBuild_BasicAuth builds from a private source with the credential of the request, into a
// private target with the credential of the install.
func Test_RefBuild_BasicAuth(t *testing.T) {
	from := registrytest.Start(t, registrytest.Options{Users: map[string]string{"alice": "alices-password"}})
	to := registrytest.Start(t, registrytest.Options{Users: map[string]string{"install": "installs-password"}})
	digest := from.Push(t, "team/app:1", registrytest.RandomImage(t, 2, 1<<10))
	secret := filepath.Join(t.TempDir(), "config.json")
	auth := base64.StdEncoding.EncodeToString([]byte("install:installs-password"))
	if err := os.WriteFile(secret, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, to.Addr, auth), 0o600); err != nil {
		t.Fatal(err)
	}
	n := harness.Start(t, to.Addr, harness.Config{"orchestrator": map[string]any{"pullSecretFile": secret}})
	src := harness.RefSource(from.Addr + "/team/app:1")
	_, err := n.Native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: src})
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "cannot resolve image") {
		t.Errorf("without a credential: %v", err)
	}
	b := mustBuild(t, n, &imagebuilderv1.BuildImageRequest{Source: src, Auth: &imagebuilderv1.RegistryAuth{
		Additional: map[string]*imagebuilderv1.BasicAuth{from.Addr: {Username: "alice", Password: "alices-password"}},
	}})
	if b.Digest != digest {
		t.Errorf("digest %s, want %s", b.Digest, digest)
	}
}

// Test_50Identical requests one image 50 times at once, through both APIs. There is one build with
// one attempt and one push, and all requests get the same result.
func Test_50Identical(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 2, 1<<20))
	n := harness.Start(t, reg.Addr, nil)
	ctx := testkit.Context(t, time.Minute)
	ref := reg.Addr + "/team/app:1"
	var mu sync.Mutex
	builds, digests := map[string]int{}, map[string]int{}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if i%2 == 0 {
				res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(ref), Requester: fmt.Sprint("r", i)})
				if err != nil {
					t.Error(err)
					return
				}
				b := res.Build
				if !res.Exists {
					b = n.Wait(t, ctx, b.Id)
				}
				mu.Lock()
				defer mu.Unlock()
				builds[b.Id]++
				digests[b.Phase.String()+" "+b.Digest]++
				return
			}
			all, err := n.BuildGitpod(ctx, &builder.BuildRequest{Source: harness.GitpodRef(ref), TriggeredBy: fmt.Sprint("r", i)})
			if err != nil {
				t.Error(err)
				return
			}
			last := all[len(all)-1]
			if last.Status != builder.BuildStatus_done_success {
				t.Errorf("got %v", last)
			}
			mu.Lock()
			defer mu.Unlock()
			builds[last.GetInfo().GetBuildId()]++
		})
	}
	wg.Wait()
	delete(builds, "") // requests that came after the image existed
	if len(builds) != 1 || len(digests) != 1 || digests["PHASE_SUCCEEDED "+digest] != 25 {
		t.Errorf("builds %v, results %v", builds, digests)
	}
	list, err := n.Native.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{})
	if err != nil || len(list.Builds) != 1 || len(list.Builds[0].Attempts) != 1 {
		t.Fatalf("%d builds, %v", len(list.GetBuilds()), err)
	}
	tags := 0
	for _, r := range reg.Requests() {
		if r.Method == http.MethodPut && strings.Contains(r.URI, "/workspace-images/manifests/") && !strings.Contains(r.URI, "sha256:") {
			tags++
		}
	}
	if tags != 1 {
		t.Errorf("the image was tagged %d times, want once", tags)
	}
}

func Test_BaseImageMissing(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	n := harness.Start(t, reg.Addr, nil)
	for ref, want := range map[string]codes.Code{
		reg.Addr + "/none:1": codes.NotFound, "Upper/Case:1": codes.InvalidArgument, "a b": codes.InvalidArgument,
		"user:hunter2-secret@" + reg.Addr + "/x:1": codes.InvalidArgument, "127.0.0.1:1/x:1": codes.Unavailable,
	} {
		_, err := n.Gitpod.ResolveBaseImage(testkit.Context(t, time.Minute), &builder.ResolveBaseImageRequest{Ref: ref})
		if status.Code(err) != want || strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("%s: got %v, want %s", ref, err, want)
		}
	}
}

// Test_ServerHabits checks metrics, probes, profiles and the exit status after SIGTERM.
func Test_ServerHabits(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	n := harness.Start(t, reg.Addr, nil)
	mustBuild(t, n, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(reg.Addr + "/team/app:1")})
	metrics, _ := n.Get("http://" + n.Metrics + "/metrics")
	for _, want := range []string{
		"gitpod_image_builder_builds_started_total 1", `gitpod_image_builder_builds_done_total{success="true"} 1`,
		"grpc_server_handled_total", `grpc_server_handling_seconds_bucket`, "go_goroutines", "process_open_fds", "image_builder_log_sync_seconds",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
	if body, code := n.Get("http://" + n.Health + "/live"); code != 200 || body != "live\n" {
		t.Errorf("/live: %d %q", code, body)
	}
	if _, code := n.Get("http://" + n.Pprof + "/debug/pprof/goroutine?debug=1"); code != 200 {
		t.Errorf("pprof: %d", code)
	}
	h, err := healthpb.NewHealthClient(n.Conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	if st := n.Stop(); st.ExitCode() != 0 {
		t.Errorf("after SIGTERM: %s", st)
	}
}

// Test_StartsThatFail starts nodes that must fail with a clear message: a second process, a port in
// use, an unknown configuration key.
func Test_StartsThatFail(t *testing.T) {
	n := harness.Start(t, "127.0.0.1:1", nil)
	second := harness.New(t, t.TempDir(), "127.0.0.1:1", harness.Config{"dataDir": filepath.Join(n.Dir, "data")})
	wantExit(t, second, 3, "is used by another process")
	port := harness.New(t, t.TempDir(), "127.0.0.1:1", harness.Config{"metricsAddress": n.Metrics})
	wantExit(t, port, 3, "is in use by another process")
	key := harness.New(t, t.TempDir(), "127.0.0.1:1", harness.Config{"orchestrator": map[string]any{"baseImageRepo": "x"}})
	wantExit(t, key, 2, `did you mean \"orchestrator.baseImageRepository\"`)
}

func wantExit(t *testing.T, n *harness.Node, code int, text string) {
	t.Helper()
	n.Launch()
	select {
	case <-n.Exited():
	case <-time.After(30 * time.Second):
		t.Fatalf("the node did not end; want %q", text)
	}
	if n.ExitCode() != code || !strings.Contains(strings.ReplaceAll(n.Log(), `"`, `\"`), text) && !strings.Contains(n.Log(), text) {
		t.Errorf("status %d, want %d with %q:\n%s", n.ExitCode(), code, text, n.Log())
	}
}

// Test_Secrets passes secrets in every possible way. It then searches everything that the service
// stores or shows for them, in every encoding.
func Test_Secrets(t *testing.T) {
	const password = "correct-horse-battery-staple"
	from := registrytest.Start(t, registrytest.Options{Users: map[string]string{"alice": password}})
	to := registrytest.Start(t, registrytest.Options{})
	from.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	n := harness.Start(t, to.Addr, nil)
	ctx := testkit.Context(t, time.Minute)
	ref := from.Addr + "/team/app:1"
	var shown bytes.Buffer
	see := func(v any, err error) { fmt.Fprintln(&shown, v, err) }
	native := &imagebuilderv1.RegistryAuth{Additional: map[string]*imagebuilderv1.BasicAuth{from.Addr: {Username: "alice", Password: password}}}
	gitpod := &builder.BuildRegistryAuth{Additional: map[string]string{from.Addr: base64.StdEncoding.EncodeToString([]byte("alice:" + password))}}
	see(n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
		Source: harness.RefSource(ref), Auth: native, RequestId: "q1", Requester: "alice",
		GitAuth: &imagebuilderv1.BasicAuth{Username: "git", Password: password}, Secrets: map[string][]byte{"token": []byte(password)},
	}))
	first, err := n.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{
		Build:   &imagebuilderv1.BuildStatusRequest_Ref{Ref: workspaceRef(t, n, ref, native)},
		WaitFor: imagebuilderv1.Phase_PHASE_SUCCEEDED,
	})
	see(first, err)
	see(n.BuildGitpod(ctx, &builder.BuildRequest{Source: harness.GitpodRef(ref), Auth: gitpod, ForceRebuild: true}))
	see(n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: ref, Auth: gitpod}))
	see(n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: "alice:" + password + "@" + ref, Auth: gitpod}))
	see(n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: "https://alice:" + password + "@" + ref}))
	see(n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: from.Addr + "/none:1", Auth: gitpod}))
	see(n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{
		Dockerfile: &imagebuilderv1.DockerfileSource{Context: &imagebuilderv1.DockerfileSource_Git{
			Git: &imagebuilderv1.GitContext{RemoteUri: "https://alice:" + password + "@example.com/a.git"},
		}},
	}}}))
	list, err := n.Native.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{})
	see(list, err)
	for _, b := range list.GetBuilds() {
		see(n.Wait(t, ctx, b.Id), nil)
		see(n.ReadLog(ctx, b.Id, 0))
	}
	see(n.Gitpod.ListBuilds(ctx, &builder.ListBuildsRequest{}))
	metrics, _ := n.Get("http://" + n.Metrics + "/metrics")
	shown.WriteString(metrics)
	if st := n.Stop(); st.ExitCode() != 0 {
		t.Error(st)
	}
	shown.WriteString(n.Log())
	if err := filepath.WalkDir(n.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		shown.Write(raw)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(list.GetBuilds()) != 2 || shown.Len() < 10_000 {
		t.Fatalf("only %d bytes of %d builds were looked at", shown.Len(), len(list.GetBuilds()))
	}
	for _, form := range testkit.SecretForms(password) {
		if i := bytes.Index(shown.Bytes(), form); i >= 0 {
			t.Errorf("%q shows: ...%q...", form, shown.Bytes()[max(0, i-60):min(shown.Len(), i+60)])
		}
	}
}

func workspaceRef(t *testing.T, n *harness.Node, ref string, auth *imagebuilderv1.RegistryAuth) string {
	t.Helper()
	res, err := n.Native.ResolveWorkspaceImage(t.Context(), &imagebuilderv1.ResolveWorkspaceImageRequest{Source: harness.RefSource(ref), Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	return res.Ref
}

// Test_GracefulStop stops a node by SIGTERM while clients wait. The node stops at once, tells the
// clients to retry, and continues the build after its start.
func Test_GracefulStop(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<20))
	proxy := registrytest.NewProxy(t, reg)
	to := registrytest.Start(t, registrytest.Options{})
	n := harness.Start(t, to.Addr, nil)
	ctx := testkit.Context(t, time.Minute)
	release := proxy.Hold(registrytest.Blobs)
	res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(proxy.Addr + "/team/app:1")})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the build runs", func() bool {
		st, err := n.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: res.Build.Id}})
		return err == nil && st.Build.Phase == imagebuilderv1.Phase_PHASE_RUNNING
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := n.BuildGitpod(ctx, &builder.BuildRequest{Source: harness.GitpodRef(proxy.Addr + "/team/app:1")}); status.Code(err) != codes.Unavailable {
			t.Errorf("a stream at the stop: %v", err)
		}
	})
	var end *imagebuilderv1.Build
	wg.Go(func() { end = n.Wait(t, ctx, res.Build.Id) }) // persists
	testkit.Eventually(t, 20*time.Second, "both wait", func() bool {
		st, err := n.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: res.Build.Id}})
		return err == nil && len(st.Build.Requesters) == 1
	})
	began := time.Now()
	if st := n.Stop(); st.ExitCode() != 0 {
		t.Errorf("after SIGTERM: %s", st)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the stop took %s", took)
	} else {
		t.Logf("stopped in %s", took.Round(time.Millisecond))
	}
	release()
	n.Run()
	wg.Wait()
	if end.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED || len(end.Attempts) != 2 || end.Attempts[0].Counted {
		t.Errorf("the build: %v", end)
	}
}
