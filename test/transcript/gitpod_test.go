package transcript

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// workspace is the course of a build workspace, which the fake workspace manager runs.
type workspace struct {
	output string
	hold   chan struct{} // nil: it does not wait
	more   string        // output after hold
	// pushes: the images are in the registry at the end.
	pushes bool
	// ends are the conditions at the end.
	ends *wsman.WorkspaceConditions
}

// nextWorkspace sets the course of workspaces that start from now on.
func (w *world) nextWorkspace(x workspace) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.work = x
}

// startWorkspace is called by the fake workspace manager.
func (w *world) startWorkspace(_ context.Context, req *wsman.StartWorkspaceRequest) error {
	w.mu.Lock()
	work := w.work
	w.mu.Unlock()
	w.lives.Go(func() { w.live(req, work) })
	return nil
}

func (w *world) live(req *wsman.StartWorkspaceRequest, work workspace) {
	id := req.GetId()
	w.m.Phase(id, wsman.WorkspacePhase_CREATING)
	w.m.Phase(id, wsman.WorkspacePhase_RUNNING)
	terminal := w.sup.Workspace(id)
	terminal.Open()
	_, _ = io.WriteString(terminal, work.output)
	if work.hold != nil {
		select {
		case <-work.hold:
		case <-w.ctx.Done():
			return
		}
	}
	_, _ = io.WriteString(terminal, work.more)
	terminal.Close()
	if work.pushes {
		notes := req.GetMetadata().GetAnnotations()
		for _, key := range []string{"baseref", "ref"} {
			w.reg.Push(w.t, strings.TrimPrefix(notes[key], install+"/"), image(w.t, "amd64", "built"))
		}
	}
	for _, phase := range []wsman.WorkspacePhase{wsman.WorkspacePhase_STOPPING, wsman.WorkspacePhase_STOPPED} {
		w.m.Update(id, func(s *wsman.WorkspaceStatus) {
			if s.Phase = phase; work.ends != nil {
				s.Conditions = work.ends
			}
		})
	}
}

// dockerfile is a build of a Dockerfile at a commit of that number.
func dockerfile(n int) *builder.BuildRequest {
	return &builder.BuildRequest{
		Source: &builder.BuildSource{From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{
			Source: &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{Git: &contentservice.GitInitializer{
				RemoteUri: "https://git.example.com/gitpod.git", TargetMode: contentservice.CloneTargetMode_REMOTE_COMMIT, CloneTaget: fmt.Sprintf("%040d", n),
			}}},
			DockerfileVersion: "v1", DockerfilePath: ".gitpod/Dockerfile", ContextPath: ".gitpod",
		}}},
		TriggeredBy: "user-1", SupervisorRef: install + "/supervisor:7",
	}
}

// playGitpod calls builder.ImageBuilder.
func (w *world) playGitpod() {
	w.gitpodResolve()
	w.gitpodRefuses()
	w.gitpodBuilds()
	w.gitpodFailures()
}

// gitpodBuild records a stream of Build.
func (w *world) gitpodBuild(step string, req *builder.BuildRequest) {
	w.t.Helper()
	w.r.stream("Build", step)(drain(w.n.Gitpod.Build(w.ctx, req)))
}

// gitpodLog records a log as a whole: the sizes of its parts depend on when they were read.
func (w *world) gitpodLog(step string, req *builder.LogsRequest) {
	w.t.Helper()
	all, err := drain(w.n.Gitpod.Logs(w.ctx, req))
	var b strings.Builder
	for _, m := range all {
		b.Write(m.(*builder.LogsResponse).Content)
	}
	w.r.begin("Logs: %s", step)
	w.r.line("%q", w.r.replace(b.String()))
	w.r.end(err)
}

func (w *world) gitpodResolve() {
	api, r := w.n.Gitpod, w.r
	r.section("Gitpod's API: resolve", true)
	basic := func(host, userAndPassword string) *builder.BuildRegistryAuth {
		return &builder.BuildRegistryAuth{Additional: map[string]string{host: base64.StdEncoding.EncodeToString([]byte(userAndPassword))}}
	}
	fine := upstream + "/team/app:1"
	for _, c := range []struct {
		step string
		ref  string
		auth *builder.BuildRegistryAuth
	}{
		{"an image", fine, nil},
		{"an image with all rights", fine, &builder.BuildRegistryAuth{Mode: &builder.BuildRegistryAuth_Total{Total: &builder.BuildRegistryAuthTotal{AllowAll: true}}}},
		{"an image with some rights", fine, &builder.BuildRegistryAuth{Mode: &builder.BuildRegistryAuth_Selective{Selective: &builder.BuildRegistryAuthSelective{
			AllowBaserep: true, AllowWorkspacerep: true, AnyOf: []string{upstream},
		}}}},
		{"an image with a credential", fine, basic(upstream, "alice:secret")},
		{"an index", upstream + "/team/multi:1", nil},
		{"an empty reference", "", nil},
		{"upper case", "Upper/Case:1", nil},
		{"a space", "a b", nil},
		{"a line break", "a\nb", nil},
		{"a long reference", strings.Repeat("x", 2000), nil},
		{"a password in the reference", "alice:secret@" + fine, nil},
		{"no such image", upstream + "/none:1", nil},
		{"the registry wants a login", refusing + "/unauthorized:3", nil},
		{"the registry refuses the login", refusing + "/unauthorized:4", basic(refusing, "alice:secret")},
		{"the registry forbids", refusing + "/forbidden:3", nil},
		{"the registry fails", broken + "/failing:3", nil},
		{"nobody listens", "127.0.0.1:1/y:1", nil},
		{"a credential that is not base64", fine, &builder.BuildRegistryAuth{Additional: map[string]string{upstream: "%"}}},
		{"a credential without a colon", fine, basic(upstream, "alice")},
		{"a long credential", fine, basic(upstream, "alice:"+strings.Repeat("x", 65<<10))},
		{"a host with a line break", fine, basic("a\nb", "alice:secret")},
	} {
		r.call(c.step)(api.ResolveBaseImage(w.ctx, &builder.ResolveBaseImageRequest{Ref: c.ref, Auth: c.auth, UseRetryClient: true}))
	}
	for _, c := range []struct {
		step   string
		source *builder.BuildSource
	}{
		{"an image", harness.GitpodRef(upstream + "/team/app:3")},
		{"an image whose workspace image exists", harness.GitpodRef(fine)},
		{"no such image", harness.GitpodRef(upstream + "/none:1")},
		{"the registry wants a login", harness.GitpodRef(refusing + "/unauthorized:5")},
		{"a Dockerfile", dockerfile(1).Source},
	} {
		r.call(c.step)(api.ResolveWorkspaceImage(w.ctx, &builder.ResolveWorkspaceImageRequest{Source: c.source}))
	}
	r.call("nothing")(api.ListBuilds(w.ctx, &builder.ListBuildsRequest{}))
}

// gitpodRefuses sends what Gitpod's API refuses.
func (w *world) gitpodRefuses() {
	r := w.r
	r.section("Gitpod's API: requests that are refused", true)
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
	file := func(source *contentservice.WorkspaceInitializer) *builder.BuildSource {
		return &builder.BuildSource{From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{Source: source}}}
	}
	for _, c := range []struct {
		step   string
		source *builder.BuildSource
	}{
		{"no source", nil},
		{"no kind", &builder.BuildSource{}},
		{"an empty ref", harness.GitpodRef("")},
		{"a ref with a line break", harness.GitpodRef("ubuntu\n:22.04")},
		{"upper case", harness.GitpodRef("Ubuntu:22.04")},
		{"no initializer", file(nil)},
		{"no git", file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Snapshot{Snapshot: &contentservice.SnapshotInitializer{Snapshot: "s"}}})},
		{"a composite of nothing", file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Composite{Composite: &contentservice.CompositeInitializer{}}})},
		{"a Dockerfile above", path("../Dockerfile", ".")},
		{"an absolute Dockerfile", path("/etc/passwd", ".")},
		{"a context above", path("Dockerfile", "a/../../b")},
		{"a line break in a path", path("Docker\nfile", ".")},
		{"no repository", git(func(g *contentservice.GitInitializer) { g.RemoteUri = "" })},
		{"a line break in the repository", git(func(g *contentservice.GitInitializer) { g.RemoteUri = "https://git.example.com/a\nb.git" })},
		{"a password in the repository", git(func(g *contentservice.GitInitializer) { g.RemoteUri = "https://alice:secret@git.example.com/a.git" })},
		{"a NUL in the target", git(func(g *contentservice.GitInitializer) { g.CloneTaget = "main\x00" })},
		{"no URL of a one-time secret", git(func(g *contentservice.GitInitializer) {
			g.Config = &contentservice.GitConfig{Authentication: contentservice.GitAuthMethod_BASIC_AUTH_OTS}
		})},
	} {
		r.call(c.step)(w.n.Gitpod.ResolveWorkspaceImage(w.ctx, &builder.ResolveWorkspaceImageRequest{Source: c.source}))
		w.gitpodBuild(c.step, &builder.BuildRequest{Source: c.source})
	}
	fine := harness.GitpodRef(upstream + "/team/app:3")
	w.gitpodBuild("a long user", &builder.BuildRequest{Source: fine, TriggeredBy: strings.Repeat("x", 300)})
	w.gitpodBuild("a supervisor with a line break", &builder.BuildRequest{Source: fine, SupervisorRef: "a\nb"})
	w.gitpodBuild("a base image with a line break", &builder.BuildRequest{Source: fine, BaseImageNameResolved: "a\nb"})
	w.gitpodBuild("no such image", &builder.BuildRequest{Source: harness.GitpodRef(upstream + "/none:1")})
	w.gitpodBuild("the registry wants a login", &builder.BuildRequest{Source: harness.GitpodRef(refusing + "/unauthorized:6")})
	w.gitpodBuild("the registry fails", &builder.BuildRequest{Source: harness.GitpodRef(broken + "/failing:6")})
	w.gitpodLog("no build", &builder.LogsRequest{})
	w.gitpodLog("no such ref", &builder.LogsRequest{BuildRef: "registry.example.com/none:1"})
	w.gitpodLog("no such id", &builder.LogsRequest{BuildId: "0193a1b2-7c00-7000-8000-000000000001"})
}

// gitpodBuilds plays builds that succeed.
func (w *world) gitpodBuilds() {
	api, r := w.n.Gitpod, w.r
	r.section("Gitpod's API: builds", true)
	w.nextWorkspace(workspace{output: "step 1\n", more: "step 2\n", hold: make(chan struct{}), pushes: true})
	stream, err := api.Build(w.ctx, dockerfile(1))
	if err != nil {
		w.t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	id := first.GetInfo().GetBuildId()
	w.logs, w.info = id, first.GetInfo().GetLogInfo()
	w.awaitPhase(id, running)
	r.call("one runs")(api.ListBuilds(w.ctx, &builder.ListBuildsRequest{}))
	second, err := api.Build(w.ctx, dockerfile(1))
	if err != nil {
		w.t.Fatal(err)
	}
	joined, err := second.Recv()
	r.stream("Build", "joins the build that runs")([]proto.Message{joined}, err)
	// The log of a build that runs: what there is first, then what comes.
	logs, err := api.Logs(w.ctx, &builder.LogsRequest{BuildRef: first.Ref})
	if err != nil {
		w.t.Fatal(err)
	}
	for read := ""; read != "step 1\n"; {
		m, err := logs.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		read += string(m.Content)
	}
	close(w.current().hold)
	rest, err := drain(stream, nil)
	r.stream("Build", "a Dockerfile")(append([]proto.Message{first}, rest...), err)
	rest, err = drain(logs, nil)
	r.stream("Logs", "what comes while the build runs")(rest, err)
	w.awaitSealed(id)
	starts := w.m.Starts()
	r.call("a Dockerfile")(starts[len(starts)-1], nil)
	w.gitpodLog("by id", &builder.LogsRequest{BuildId: id, Censored: true})
	w.gitpodLog("by ref", &builder.LogsRequest{BuildRef: first.Ref})
	r.call("none runs")(api.ListBuilds(w.ctx, &builder.ListBuildsRequest{}))
	r.call("a Dockerfile that was built")(api.ResolveWorkspaceImage(w.ctx, &builder.ResolveWorkspaceImageRequest{Source: dockerfile(1).Source}))
	w.gitpodBuild("the image exists", dockerfile(1))
	forced := dockerfile(1)
	forced.ForceRebuild = true
	w.nextWorkspace(workspace{output: "again\n", pushes: true})
	w.gitpodBuild("the image exists, and a build is forced", forced)
	w.gitpodBuild("an image", &builder.BuildRequest{Source: harness.GitpodRef(upstream + "/team/gitpod:1"), TriggeredBy: "user-2"})
	w.gitpodBuild("an image that exists", &builder.BuildRequest{Source: harness.GitpodRef(upstream + "/team/gitpod:1"), TriggeredBy: "user-2"})

	w.reg.Push(w.t, "base-images:earlier", image(w.t, "amd64", "earlier"))
	resolved := dockerfile(2)
	resolved.BaseImageNameResolved = install + "/base-images:earlier"
	w.gitpodBuild("from a base image that was built before", resolved)
	w.gitpodBuild("from a base image that was built before, once more", resolved)
	gone := dockerfile(3)
	gone.BaseImageNameResolved = install + "/base-images:gone"
	w.nextWorkspace(workspace{output: "anew\n", pushes: true})
	w.gitpodBuild("the base image that was built before is gone", gone)
}

// gitpodFailures plays builds that fail. Gitpod's server reads the messages.
func (w *world) gitpodFailures() {
	r := w.r
	r.section("Gitpod's API: builds that fail", true)
	for i, c := range []struct {
		step string
		work workspace
	}{
		{"the task fails", workspace{ends: &wsman.WorkspaceConditions{HeadlessTaskFailed: "exit status 7"}}},
		{"the workspace fails", workspace{ends: &wsman.WorkspaceConditions{Failed: "node is out of disk"}}},
		{"the workspace fails by its task", workspace{ends: &wsman.WorkspaceConditions{Failed: "headless task failed: exit status 8"}}},
		{"the workspace fails with images", workspace{pushes: true, ends: &wsman.WorkspaceConditions{Failed: "late"}}},
		{"the workspace takes too long", workspace{ends: &wsman.WorkspaceConditions{Timeout: "60m"}}},
		{"the workspace is aborted", workspace{ends: &wsman.WorkspaceConditions{Aborted: wsman.WorkspaceConditionBool_TRUE}}},
	} {
		c.work.output = fmt.Sprintf("output of case %d\n", i)
		w.nextWorkspace(c.work)
		req := dockerfile(100 + i)
		all, err := drain(w.n.Gitpod.Build(w.ctx, req))
		r.stream("Build", c.step)(all, err)
		if len(all) > 0 {
			id := all[0].(*builder.BuildResponse).GetInfo().GetBuildId()
			w.awaitSealed(id)
			w.gitpodLog(c.step, &builder.LogsRequest{BuildId: id})
		}
	}
	w.proxy.Fail(on(upstream, "team/app", get(registrytest.Blobs)), -1, http.StatusNotFound)
	w.gitpodBuild("a layer of the base image is not there", &builder.BuildRequest{Source: harness.GitpodRef(upstream + "/team/app:3")})
	w.proxy.Heal()

	source, release := w.hold("held-c:1")
	defer release()
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	stream, err := w.n.Gitpod.Build(ctx, &builder.BuildRequest{Source: harness.GitpodRef(source.GetRef().Ref), TriggeredBy: "user-1"})
	if err != nil {
		w.t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	w.awaitPhase(first.GetInfo().GetBuildId(), running)
	w.cancel(first.GetInfo().GetBuildId(), "user-1")
	rest, err := drain(stream, nil)
	r.stream("Build", "cancelled by its user")(append([]proto.Message{first}, rest...), err)
}

// playSlow begins a build on a node of its own, which waits ten seconds for an image. The returned
// function records the build.
func playSlow(t *testing.T) func(*transcript) {
	w := newWorld(t, 1)
	w.nextWorkspace(workspace{output: "nothing\n"})
	var all []proto.Message
	var err error
	var build sync.WaitGroup
	build.Go(func() { all, err = drain(w.n.Gitpod.Build(w.ctx, dockerfile(200))) })
	return func(r *transcript) {
		build.Wait()
		r.stream("Build", "the workspace makes no image")(all, err)
	}
}
