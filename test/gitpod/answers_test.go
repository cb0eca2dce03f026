package gitpod

import (
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
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// once is the config of a node that does not retry builds.
var once = harness.Config{"builds": map[string]any{"attempts": 1}}

// Test_Contract_Ends lets build workspaces end in each way of section 3 of the contract, and checks
// the responses of Build (sections 5 and 10).
func Test_Contract_Ends(t *testing.T) {
	t.Parallel()
	stop := func(in *install, id string, c *wsman.WorkspaceConditions) {
		for _, phase := range []wsman.WorkspacePhase{wsman.WorkspacePhase_STOPPING, wsman.WorkspacePhase_STOPPED} {
			in.m.Update(id, func(s *wsman.WorkspaceStatus) { s.Phase, s.Conditions = phase, c })
		}
	}
	pushed := func(c *wsman.WorkspaceConditions, keys ...string) func(*install, *wsman.StartWorkspaceRequest) {
		return func(in *install, req *wsman.StartWorkspaceRequest) {
			for _, k := range keys {
				in.push(req.GetMetadata().GetAnnotations()[k])
			}
			stop(in, req.GetId(), c)
		}
	}
	none := &wsman.WorkspaceConditions{}
	cases := []struct {
		name   string
		finish func(*install, *wsman.StartWorkspaceRequest)
		status builder.BuildStatus
		// message is a part of the message in the last response.
		message string
		// user means that Gitpod's server blames the user.
		user bool
	}{
		{"both images", pushed(none, "ref", "baseref"), builder.BuildStatus_done_success, "", false},
		{"headless task failed", pushed(&wsman.WorkspaceConditions{HeadlessTaskFailed: "exit status 7"}), builder.BuildStatus_done_failure, "exit status 7", true},
		{"failed", pushed(&wsman.WorkspaceConditions{Failed: "node is out of disk"}), builder.BuildStatus_done_failure, "node is out of disk", false},
		{"failed, with the message of the task", pushed(&wsman.WorkspaceConditions{Failed: "headless task failed: exit status 8"}), builder.BuildStatus_done_failure, "headless task failed: exit status 8", true},
		{"failed, with images", pushed(&wsman.WorkspaceConditions{Failed: "late"}, "ref", "baseref"), builder.BuildStatus_done_failure, "late", false},
		{"timeout", pushed(&wsman.WorkspaceConditions{Timeout: "60m"}), builder.BuildStatus_done_failure, "time limit: 60m", false},
		{"no image", pushed(none), builder.BuildStatus_done_failure, "image build did not produce a workspace image", false},
		{"no workspace image", pushed(none, "baseref"), builder.BuildStatus_done_failure, "image build did not produce a workspace image", false},
		{"no base image", pushed(none, "ref"), builder.BuildStatus_done_failure, "image build did not produce a workspace image", false},
		{"aborted", pushed(&wsman.WorkspaceConditions{Aborted: wsman.WorkspaceConditionBool_TRUE}), builder.BuildStatus_done_failure, "was aborted", false},
	}
	in := newInstall(t)
	which := map[string]int{} // index of the case by base ref; complete before the first build
	in.finish = func(req *wsman.StartWorkspaceRequest) {
		cases[which[req.GetMetadata().GetAnnotations()["baseref"]]].finish(in, req)
	}
	n := in.node(once)
	ctx := testkit.Context(t, 3*time.Minute)
	for i, c := range cases {
		res, err := n.Gitpod.ResolveWorkspaceImage(ctx, &builder.ResolveWorkspaceImageRequest{Source: dockerfile(i).Source})
		if err != nil || res.Status != builder.BuildStatus_unknown || res.BaseRef == "" {
			t.Fatalf("%s: resolved to %v, %v", c.name, res, err)
		}
		which[res.BaseRef] = i
	}
	var builds sync.WaitGroup
	for i, c := range cases {
		builds.Go(func() {
			all, err := n.BuildGitpod(ctx, dockerfile(i))
			if err != nil || len(all) != 2 || all[0].Status != builder.BuildStatus_running || all[0].GetInfo().GetLogInfo().GetUrl() == "" || which[all[0].BaseRef] != i {
				t.Errorf("%s: the stream is %v, %v", c.name, all, err)
				return
			}
			end := all[1]
			if end.Status != c.status || !strings.Contains(end.Message, c.message) || end.Ref != all[0].Ref || end.BaseRef != all[0].BaseRef {
				t.Errorf("%s: ended with %v, want %s and %q", c.name, end, c.status, c.message)
			}
			if i := end.GetInfo(); i.GetStatus() != end.Status || i.GetRef() != end.Ref || i.GetBaseRef() != end.BaseRef {
				t.Errorf("%s: info contradicts the response: %v", c.name, end)
			}
			blamed := strings.HasPrefix(end.Message, "build failed:") || strings.Contains(end.Message, "headless task failed:") || strings.Contains(end.Message, "cannot resolve image")
			if blamed != c.user {
				t.Errorf("%s: Gitpod's server blames the user: %v, want %v, for %q", c.name, blamed, c.user, end.Message)
			}
			after, err := n.Gitpod.ResolveWorkspaceImage(ctx, &builder.ResolveWorkspaceImageRequest{Source: dockerfile(i).Source})
			if err != nil || c.status == builder.BuildStatus_done_success && after.Status != c.status {
				t.Errorf("%s: after the build, resolved to %v, %v", c.name, after, err)
			}
		})
	}
	builds.Wait()
	// The image exists: one message without info.
	all, err := n.BuildGitpod(ctx, dockerfile(0))
	if err != nil || len(all) != 1 || all[0].Status != builder.BuildStatus_done_success || all[0].Info != nil || all[0].Ref == "" || all[0].BaseRef == "" {
		t.Errorf("an image that exists: %v, %v", all, err)
	}
}

// Test_Contract_RegistryErrors lets the registry return typical errors, and checks code and
// message: the message names the image, and has no secret.
func Test_Contract_RegistryErrors(t *testing.T) {
	in := newInstall(t)
	proxy := registrytest.NewProxy(t, in.reg)
	n := in.node(harness.Config{"registry": map[string]any{"allowLoopback": true, "timeout": "5s"}})
	ctx := testkit.Context(t, 3*time.Minute)
	const password = "hunter2-in-a-request"
	auth := &builder.BuildRegistryAuth{Additional: map[string]string{proxy.Addr: base64.StdEncoding.EncodeToString([]byte("user:" + password))}}
	var calls sync.WaitGroup
	for i, c := range []struct {
		response int // status of the registry; 0: no response
		code     codes.Code
		user     bool
	}{
		{http.StatusUnauthorized, codes.Unauthenticated, true},
		{http.StatusForbidden, codes.Unauthenticated, true},
		{http.StatusNotFound, codes.NotFound, true},
		{http.StatusBadGateway, codes.Unavailable, false},
		{0, codes.Unavailable, false},
		{http.StatusTooManyRequests, codes.Unavailable, false}, // last: no further request is sent to the host
	} {
		if c.response == http.StatusTooManyRequests {
			calls.Wait()
		}
		image := fmt.Sprint(proxy.Addr, "/team/app", i, ":1")
		of := func(r *http.Request) bool {
			return registrytest.Manifests(r) && strings.Contains(r.URL.Path, fmt.Sprint("app", i, "/"))
		}
		if c.response == 0 {
			proxy.Hang(of, -1)
		} else {
			proxy.Fail(of, -1, c.response)
		}
		for method, call := range map[string]func() error{
			"ResolveBaseImage": func() error {
				_, err := n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: image, Auth: auth})
				return err
			},
			"ResolveWorkspaceImage": func() error {
				_, err := n.Gitpod.ResolveWorkspaceImage(ctx, &builder.ResolveWorkspaceImageRequest{Source: harness.GitpodRef(image), Auth: auth})
				return err
			},
			"Build": func() error {
				_, err := n.BuildGitpod(ctx, &builder.BuildRequest{Source: harness.GitpodRef(image), Auth: auth})
				return err
			},
		} {
			calls.Go(func() {
				err := call()
				text := status.Convert(err).Message()
				if status.Code(err) != c.code || strings.Contains(text, "cannot resolve image") != c.user || !strings.Contains(text, fmt.Sprint("team/app", i)) || strings.Contains(text, password) {
					t.Errorf("the registry returns %d: %s: %v, want %s with the name of the image", c.response, method, err, c.code)
				}
			})
		}
	}
	calls.Wait()
}

// Test_Contract_BadRequests sends invalid requests over a socket. The node must refuse them.
func Test_Contract_BadRequests(t *testing.T) {
	in := newInstall(t)
	n := in.node(nil)
	ctx := testkit.Context(t, time.Minute)
	path := func(file, dir string) *builder.BuildSource {
		s := dockerfile(1).Source
		s.GetFile().DockerfilePath, s.GetFile().ContextPath = file, dir
		return s
	}
	git := func(change func(*contentservice.GitInitializer)) *builder.BuildSource {
		s := dockerfile(1).Source
		change(s.GetFile().GetSource().GetGit())
		return s
	}
	for name, src := range map[string]*builder.BuildSource{
		"no source": nil, "no kind": {}, "nil ref": {From: &builder.BuildSource_Ref{}}, "nil file": {From: &builder.BuildSource_File{}},
		"no initializer": {From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{}}},
		"not git": {From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{Source: &contentservice.WorkspaceInitializer{
			Spec: &contentservice.WorkspaceInitializer_Snapshot{Snapshot: &contentservice.SnapshotInitializer{Snapshot: "s"}},
		}}}},
		"composite": {From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{Source: &contentservice.WorkspaceInitializer{
			Spec: &contentservice.WorkspaceInitializer_Composite{Composite: &contentservice.CompositeInitializer{Initializer: []*contentservice.WorkspaceInitializer{nil}}},
		}}}},
		"Dockerfile above": path("../Dockerfile", "."), "absolute Dockerfile": path("/etc/passwd", "."),
		"context above": path("Dockerfile", "a/../../b"), "absolute context": path("Dockerfile", "/etc"),
		"newline in a path": path("Docker\nfile", "."), "NUL in a path": path("Dockerfile", "a\x00b"),
		"newline in a URL": git(func(g *contentservice.GitInitializer) { g.RemoteUri = "https://git.example.com/a\nb.git" }),
		"NUL in a target":  git(func(g *contentservice.GitInitializer) { g.CloneTaget = "main\x00" }),
		"newline in a ref": harness.GitpodRef("ubuntu\n:22.04"), "upper case": harness.GitpodRef("Ubuntu:22.04"),
	} {
		_, resolve := n.Gitpod.ResolveWorkspaceImage(ctx, &builder.ResolveWorkspaceImageRequest{Source: src})
		_, build := n.BuildGitpod(ctx, &builder.BuildRequest{Source: src})
		if status.Code(resolve) != codes.InvalidArgument || status.Code(build) != codes.InvalidArgument {
			t.Errorf("%s: %v and %v, want INVALID_ARGUMENT", name, resolve, build)
		}
	}
	for name, req := range map[string]*builder.LogsRequest{"ref": {BuildRef: "registry.example.com/none:1"}, "id": {BuildId: "0193a1b2-7c00-7000-8000-000000000001"}} {
		stream, err := n.Gitpod.Logs(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "build not found") {
			t.Errorf("Logs of an unknown %s: %v", name, err)
		}
	}
}

// Test_Contract_BaseImageNameResolved sends the base_ref of an earlier build. The registry requires
// a login, and the request allows no credentials. The node reads the base repository all the same.
func Test_Contract_BaseImageNameResolved(t *testing.T) {
	in := newInstall(t)
	in.reg = registrytest.Start(t, registrytest.Options{Quiet: true, Users: map[string]string{"u": "the-pull-secret"}})
	secret := filepath.Join(t.TempDir(), "pull.json")
	login := base64.StdEncoding.EncodeToString([]byte("u:the-pull-secret"))
	if err := os.WriteFile(secret, []byte(`{"auths": {"`+in.reg.Addr+`": {"auth": "`+login+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	in.reg.Push(t, "base-images:earlier", in.img)
	base := in.reg.Addr + "/base-images:earlier"
	in.finish = func(req *wsman.StartWorkspaceRequest) { // runs only for a build from the source
		notes := req.GetMetadata().GetAnnotations()
		for _, k := range []string{"baseref", "ref"} {
			in.reg.Push(t, strings.TrimPrefix(notes[k], in.reg.Addr+"/"), in.img)
		}
		in.m.Phase(req.GetId(), wsman.WorkspacePhase_STOPPED)
	}
	cfg := in.config(nil)
	cfg["orchestrator"].(map[string]any)["pullSecretFile"] = secret
	n := in.node(cfg)
	ctx := testkit.Context(t, 2*time.Minute)
	with := func(base string, which int) *builder.BuildRequest {
		req := dockerfile(which)
		req.BaseImageNameResolved = base
		return req
	}
	started := func() int { k, _ := in.total(); return k }

	// The base image resolves: the node copies it and runs no Dockerfile.
	all, err := n.BuildGitpod(ctx, with(base, 1))
	if err := success(all, err); err != nil || started() != 0 {
		t.Fatalf("from the base image: %v, %d workspaces", err, started())
	}
	if end := all[len(all)-1]; end.BaseRef != base || in.reg.Digest(t, strings.TrimPrefix(end.Ref, in.reg.Addr+"/")) != registrytest.Digest(t, in.img) {
		t.Errorf("from the base image: %v", end)
	}
	// The workspace image exists: the build ends at once.
	again, err := n.BuildGitpod(ctx, with(base, 1))
	if err != nil || len(again) != 1 || again[0].Status != builder.BuildStatus_done_success || again[0].BaseRef != base || again[0].Ref != all[0].Ref {
		t.Errorf("the image exists: %v, %v", again, err)
	}
	// The base image does not exist any more: the build uses the source.
	all, err = n.BuildGitpod(ctx, with(in.reg.Addr+"/base-images:gone", 2))
	if err := success(all, err); err != nil || started() != 1 {
		t.Fatalf("from the source: %v, %d workspaces", err, started())
	}
	if end := all[len(all)-1]; strings.HasSuffix(end.BaseRef, ":gone") {
		t.Errorf("from the source: %v", end)
	}
	// Forced: the build uses the source although the base image exists.
	req := with(base, 3)
	req.ForceRebuild = true
	if err := success(n.BuildGitpod(ctx, req)); err != nil || started() != 2 {
		t.Errorf("forced: %v, %d workspaces", err, started())
	}
}

// Test_Contract_ClientGoesAway disconnects a client while its build waits, and while it runs.
func Test_Contract_ClientGoesAway(t *testing.T) {
	in := newInstall(t)
	release := make(chan struct{})
	in.work = func(string, *wsmanagertest.Workspace) { in.await(release) }
	n := in.node(nil)
	ctx := testkit.Context(t, time.Minute)
	begun := first(t, n.Gitpod, dockerfile(1))
	testkit.Eventually(t, 30*time.Second, "the workspace runs", func() bool { k, _ := in.total(); return k == 1 })
	if again := first(t, n.Gitpod, dockerfile(1)); again.GetInfo().GetBuildId() != begun.GetInfo().GetBuildId() {
		t.Errorf("the repeated request got build %s, want %s", again.GetInfo().GetBuildId(), begun.GetInfo().GetBuildId())
	}
	close(release)
	if b := n.Wait(t, ctx, begun.GetInfo().GetBuildId()); b.GetPhase().String() != "PHASE_SUCCEEDED" {
		t.Errorf("the build ended with %s: %s", b.GetPhase(), b.GetMessage())
	}
	if len(in.m.Stops()) > 0 {
		t.Errorf("the workspace was stopped: %v", in.m.Stops())
	}
}
