package transcript

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
)

const (
	queued    = imagebuilderv1.Phase_PHASE_QUEUED
	running   = imagebuilderv1.Phase_PHASE_RUNNING
	succeeded = imagebuilderv1.Phase_PHASE_SUCCEEDED
)

// playNative calls imagebuilder.v1.ImageBuilder.
func (w *world) playNative() {
	w.nativeResolve()
	w.nativeBadBuilds()
	w.nativeBuilds()
	w.nativeHeld()
	w.nativePublishing()
	w.nativeFailures()
	w.nativeQueue()
	w.nativeWatch()
	w.nativeLogs()
	w.nativeUploads()
	w.nativeCache()
}

// on matches requests for a repository of one host.
func on(host, repository string, m registrytest.Matcher) registrytest.Matcher {
	return func(r *http.Request) bool {
		return r.Host == host && strings.HasPrefix(r.URL.Path, "/v2/"+repository+"/") && m(r)
	}
}

var get = func(m registrytest.Matcher) registrytest.Matcher { return registrytest.Method(http.MethodGet, m) }

func ref(image string) *imagebuilderv1.Source { return harness.RefSource(image) }

func dockerfileSource(d *imagebuilderv1.DockerfileSource) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: d}}
}

// gitSource is a Dockerfile in a git repository, with changes.
func gitSource(change func(*imagebuilderv1.DockerfileSource, *imagebuilderv1.GitContext)) *imagebuilderv1.Source {
	g := &imagebuilderv1.GitContext{
		RemoteUri: "https://git.example.com/app.git", CloneTarget: fmt.Sprintf("%040d", 1), TargetMode: imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_COMMIT,
	}
	d := &imagebuilderv1.DockerfileSource{
		Context: &imagebuilderv1.DockerfileSource_Git{Git: g}, DockerfilePath: "Dockerfile", DockerfileVersion: "v1", ContextPath: ".",
	}
	if change != nil {
		change(d, g)
	}
	return dockerfileSource(d)
}

func uploadSource(digest string) *imagebuilderv1.Source {
	return dockerfileSource(&imagebuilderv1.DockerfileSource{Context: &imagebuilderv1.DockerfileSource_Upload{Upload: &imagebuilderv1.UploadedContext{Digest: digest}}})
}

func downloadSource(files ...*imagebuilderv1.DownloadContext_File) *imagebuilderv1.Source {
	return dockerfileSource(&imagebuilderv1.DockerfileSource{Context: &imagebuilderv1.DockerfileSource_Download{Download: &imagebuilderv1.DownloadContext{Files: files}}})
}

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// mustBuild begins a build and returns its id.
func (w *world) mustBuild(req *imagebuilderv1.BuildImageRequest) string {
	w.t.Helper()
	res, err := w.n.Native.BuildImage(w.ctx, req)
	if err != nil || res.Build.GetId() == "" {
		w.t.Fatalf("%v: %v, %v", req, res, err)
	}
	return res.Build.Id
}

func byID(id string) *imagebuilderv1.BuildStatusRequest {
	return &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}}
}

func (w *world) nativeResolve() {
	api, r := w.n.Native, w.r
	r.section("native API: resolve", false)
	refuse := func(host, repository string, status int) string {
		w.proxy.Fail(on(host, repository, registrytest.Manifests), -1, status)
		return host + "/" + repository + ":1"
	}
	w.proxy.FailWith(on(busy, "limited", registrytest.Manifests), -1, http.StatusTooManyRequests, http.Header{
		"Retry-After": {"600"}, "Ratelimit-Limit": {"100;w=21600"}, "Ratelimit-Remaining": {"0;w=21600"},
	})
	auth := func(host string) *imagebuilderv1.RegistryAuth {
		return &imagebuilderv1.RegistryAuth{Additional: map[string]*imagebuilderv1.BasicAuth{host: {Username: "alice", Password: "p"}}}
	}
	long := strings.Repeat("x", 2000)
	hosts := make([]string, 65)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("h%d.example.com", i)
	}
	for _, c := range []struct {
		step string
		req  *imagebuilderv1.ResolveBaseImageRequest
	}{
		{"an image", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/app:1"}},
		{"an image with all rights", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/app:1", Auth: &imagebuilderv1.RegistryAuth{
			AllowAll: true, AllowBaseRepository: true, AllowWorkspaceRepository: true, AllowHosts: []string{" " + strings.ToUpper(upstream)},
		}}},
		{"the default platform of an index", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/multi:1"}},
		{"a platform of an index", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/multi:1", Platform: "linux/arm64"}},
		{"a platform that the index lacks", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/multi:1", Platform: "linux/s390x"}},
		{"no platform", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/multi:1", Platform: "a/b/c/d/e"}},
		{"an empty reference", &imagebuilderv1.ResolveBaseImageRequest{}},
		{"upper case", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/Team/App:1"}},
		{"a line break", &imagebuilderv1.ResolveBaseImageRequest{Ref: "a\nb"}},
		{"a long reference", &imagebuilderv1.ResolveBaseImageRequest{Ref: long}},
		{"a password in the reference", &imagebuilderv1.ResolveBaseImageRequest{Ref: "alice:secret@" + upstream + "/team/app:1"}},
		{"no such tag", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/app:none"}},
		{"no such repository", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/none:1"}},
		{"the registry wants a login", &imagebuilderv1.ResolveBaseImageRequest{Ref: refuse(refusing, "unauthorized", http.StatusUnauthorized)}},
		{"the registry refuses a login", &imagebuilderv1.ResolveBaseImageRequest{Ref: refusing + "/unauthorized:2", Auth: auth(refusing)}},
		{"the registry forbids", &imagebuilderv1.ResolveBaseImageRequest{Ref: refuse(refusing, "forbidden", http.StatusForbidden)}},
		{"the registry fails", &imagebuilderv1.ResolveBaseImageRequest{Ref: refuse(broken, "failing", http.StatusBadGateway)}},
		{"the registry is busy", &imagebuilderv1.ResolveBaseImageRequest{Ref: busy + "/limited:1"}},
		{"the registry has asked for a pause", &imagebuilderv1.ResolveBaseImageRequest{Ref: busy + "/limited:2"}},
		{"nobody listens", &imagebuilderv1.ResolveBaseImageRequest{Ref: "127.0.0.1:1/x:1"}},
		{"too many hosts", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/app:1", Auth: &imagebuilderv1.RegistryAuth{AllowHosts: hosts}}},
		{"a host with a line break", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/app:1", Auth: &imagebuilderv1.RegistryAuth{AllowHosts: []string{"a\nb"}}}},
		{"a credential's host with a line break", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/app:1", Auth: auth("a\nb")}},
		{"a long credential", &imagebuilderv1.ResolveBaseImageRequest{Ref: upstream + "/team/app:1", Auth: &imagebuilderv1.RegistryAuth{
			Additional: map[string]*imagebuilderv1.BasicAuth{upstream: {Password: strings.Repeat("x", 65<<10)}},
		}}},
	} {
		r.call(c.step)(api.ResolveBaseImage(w.ctx, c.req))
	}
	for _, c := range []struct {
		step   string
		source *imagebuilderv1.Source
	}{
		{"no source", nil},
		{"an image", ref(upstream + "/team/app:1")},
		{"no such image", ref(upstream + "/none:1")},
		{"a Dockerfile at a commit, as Gitpod names it", gitSource(nil)},
		{"a Dockerfile with options, whose repository does not answer", gitSource(func(d *imagebuilderv1.DockerfileSource, g *imagebuilderv1.GitContext) {
			d.Target, g.RemoteUri, g.CloneTarget, g.TargetMode = "stage", "http://git.example.com/app.git", "main", imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_BRANCH
		})},
		{"an uploaded context", uploadSource(someDigest)},
		{"an uploaded context with all options", dockerfileSource(&imagebuilderv1.DockerfileSource{
			Context:        &imagebuilderv1.DockerfileSource_Upload{Upload: &imagebuilderv1.UploadedContext{Digest: someDigest}},
			DockerfilePath: "a/Dockerfile", ContextPath: "a", DockerfileVersion: "v", BuildArgs: map[string]string{"A": "1", "B": "2"}, Target: "t", Platforms: []string{"linux/amd64", "linux/arm64"},
			NoCache: true, ImageLabels: map[string]string{"l": "v"}, SecretIds: []string{"s"}, NetworkMode: "none", ExtraTags: []string{install + "/base-images:mine"}, Provenance: "max", SbomGenerator: "scanner:1",
		})},
		{"a downloaded context", downloadSource(&imagebuilderv1.DownloadContext_File{Url: "https://files.example.com/a", Path: "a", Digest: someDigest})},
	} {
		r.call(c.step)(api.ResolveWorkspaceImage(w.ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: c.source}))
	}
}

// nativeBadBuilds sends what BuildImage refuses.
func (w *world) nativeBadBuilds() {
	w.r.section("native API: requests that are refused", false)
	type request = imagebuilderv1.BuildImageRequest
	type dockerfile = imagebuilderv1.DockerfileSource
	type git = imagebuilderv1.GitContext
	many := map[string]string{}
	for i := range 200 {
		many[fmt.Sprint("k", i)] = "v"
	}
	fine := ref(upstream + "/team/app:1")
	source := func(s *imagebuilderv1.Source) *request { return &request{Source: s} }
	d := func(change func(*dockerfile)) *request {
		return source(gitSource(func(d *dockerfile, _ *git) { change(d) }))
	}
	g := func(change func(*git)) *request { return source(gitSource(func(_ *dockerfile, g *git) { change(g) })) }
	file := func(url, path, digest string) *request {
		return source(downloadSource(&imagebuilderv1.DownloadContext_File{Url: url, Path: path, Digest: digest}))
	}
	for _, c := range []struct {
		step string
		req  *request
	}{
		{"no source", &request{}},
		{"an empty ref", source(ref(""))},
		{"a Dockerfile without a context", source(dockerfileSource(&dockerfile{}))},
		{"a long request id", &request{Source: fine, RequestId: strings.Repeat("x", 129)}},
		{"a request id with a control character", &request{Source: fine, RequestId: "a\x00"}},
		{"a long requester", &request{Source: fine, Requester: strings.Repeat("x", 257)}},
		{"too many labels", &request{Source: fine, Labels: many}},
		{"an empty label", &request{Source: fine, Labels: map[string]string{"": "v"}}},
		{"a long label", &request{Source: fine, Labels: map[string]string{"k": strings.Repeat("x", 257)}}},
		{"a short timeout", &request{Source: fine, Timeout: durationpb.New(time.Millisecond)}},
		{"a long timeout", &request{Source: fine, Timeout: durationpb.New(100 * time.Hour)}},
		{"a timeout that is not valid", &request{Source: fine, Timeout: &durationpb.Duration{Seconds: 1, Nanos: -1}}},
		{"a base image with a line break", &request{Source: fine, BaseImageNameResolved: "a\nb"}},
		{"a long git credential", &request{Source: fine, GitAuth: &imagebuilderv1.BasicAuth{Password: strings.Repeat("x", 65<<10)}}},
		{"a long secret", &request{Source: fine, Secrets: map[string][]byte{"s": make([]byte, 2<<20)}}},
		{"a secret that is not given", d(func(d *dockerfile) { d.SecretIds = []string{"s"} })},
		{"a tag of another repository", d(func(d *dockerfile) { d.ExtraTags = []string{install + "/other:1"} })},
		{"a tag that a key may make", d(func(d *dockerfile) { d.ExtraTags = []string{install + "/base-images:cache-1"} })},
		{"a Dockerfile above the context", d(func(d *dockerfile) { d.DockerfilePath = "../Dockerfile" })},
		{"a context with an absolute path", d(func(d *dockerfile) { d.ContextPath = "/etc" })},
		{"a long version", d(func(d *dockerfile) { d.DockerfileVersion = strings.Repeat("x", 5000) })},
		{"a build argument without a name", d(func(d *dockerfile) { d.BuildArgs = map[string]string{"": "v"} })},
		{"too many build arguments", d(func(d *dockerfile) { d.BuildArgs = many })},
		{"too many platforms", d(func(d *dockerfile) { d.Platforms = make([]string, 200) })},
		{"an unknown provenance", d(func(d *dockerfile) { d.Provenance = "all" })},
		{"a scanner that is no image", d(func(d *dockerfile) { d.SbomGenerator = "a=b" })},
		{"no repository", g(func(g *git) { g.RemoteUri = "" })},
		{"a repository like an option", g(func(g *git) { g.RemoteUri = "--upload-pack=x" })},
		{"a repository that is a path", g(func(g *git) { g.RemoteUri = "/srv/a.git" })},
		{"a repository without a host", g(func(g *git) { g.RemoteUri = "https:///a.git" })},
		{"a repository by file", g(func(g *git) { g.RemoteUri = "file://host/a.git" })},
		{"a password in the repository", g(func(g *git) { g.RemoteUri = "https://alice:secret@git.example.com/a.git" })},
		{"a password in the upstream repository", g(func(g *git) { g.UpstreamRemoteUri = "https://alice:secret@git.example.com/a.git" })},
		{"a target like an option", g(func(g *git) { g.CloneTarget = "-x" })},
		{"a target with a line break", g(func(g *git) { g.CloneTarget = "a\nb" })},
		{"too many git settings", g(func(g *git) { g.Config = many })},
		{"a git setting with a line break", g(func(g *git) { g.Config = map[string]string{"k": "a\nb"} })},
		{"a checkout above", g(func(g *git) { g.CheckoutLocation = "a/../.." })},
		{"an upload without a digest", source(uploadSource("x"))},
		{"an upload that is not there", source(uploadSource(someDigest))},
		{"a download without files", source(downloadSource())},
		{"a download by ftp", file("ftp://a/b", "p", someDigest)},
		{"a download without a digest", file("https://a/b", "p", "")},
		{"a download without a path", file("https://a/b", "", someDigest)},
		{"a download to above", file("https://a/b", "../p", someDigest)},
		{"no such base image", source(ref(upstream + "/none:1"))},
	} {
		w.r.call(c.step)(w.n.Native.BuildImage(w.ctx, c.req))
	}
	w.r.call("neither id nor ref")(w.n.Native.BuildStatus(w.ctx, &imagebuilderv1.BuildStatusRequest{}))
	w.r.call("no such id")(w.n.Native.BuildStatus(w.ctx, byID("none")))
	w.r.call("no such ref")(w.n.Native.BuildStatus(w.ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Ref{Ref: "none:1"}}))
	w.r.call("a page that is too large")(w.n.Native.ListBuilds(w.ctx, &imagebuilderv1.ListBuildsRequest{PageSize: 1001}))
	w.r.call("no id")(w.n.Native.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{}))
	w.r.call("no such id")(w.n.Native.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: "none"}))
	w.r.call("a reason with a line break")(w.n.Native.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: "none", Reason: "a\nb"}))
	w.r.call("an operator's call on the public port")(w.n.Native.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: "none", Operator: true}))
}

// nativeBuilds plays builds that succeed, and lists them.
func (w *world) nativeBuilds() {
	api, r := w.n.Native, w.r
	r.section("native API: builds", false)
	req := &imagebuilderv1.BuildImageRequest{
		RequestId: "request-1", Source: ref(upstream + "/team/app:1"), Requester: "alice", Labels: map[string]string{"team": "a"}, Timeout: durationpb.New(time.Minute),
	}
	res, err := api.BuildImage(w.ctx, req)
	r.call("an image")(res, err)
	w.awaitSealed(res.GetBuild().GetId())
	r.call("by id")(api.BuildStatus(w.ctx, byID(res.GetBuild().GetId())))
	r.call("by ref, linearizable, up to its end")(api.BuildStatus(w.ctx, &imagebuilderv1.BuildStatusRequest{
		Build: &imagebuilderv1.BuildStatusRequest_Ref{Ref: res.GetBuild().GetRef()}, Linearizable: true, MinIndex: 1, WaitFor: succeeded,
	}))
	r.call("the same request again")(api.BuildImage(w.ctx, req))
	other := proto.CloneOf(req)
	other.Force = true
	r.call("another request with the same id")(api.BuildImage(w.ctx, other))
	r.call("the image exists")(api.BuildImage(w.ctx, &imagebuilderv1.BuildImageRequest{Source: ref(upstream + "/team/app:1")}))
	r.call("an image that exists")(api.ResolveWorkspaceImage(w.ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: ref(upstream + "/team/app:1")}))
	w.awaitSealed(w.mustBuild(&imagebuilderv1.BuildImageRequest{Source: ref(upstream + "/team/app:2"), Requester: "bob"}))
	w.awaitSealed(w.mustBuild(&imagebuilderv1.BuildImageRequest{Source: ref(upstream + "/team/app:1"), Requester: "alice", Force: true}))
	r.call("has ended")(api.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: res.GetBuild().GetId(), Requester: "alice"}))

	page, err := api.ListBuilds(w.ctx, &imagebuilderv1.ListBuildsRequest{PageSize: 2})
	r.call("the first page")(page, err)
	r.call("the second page")(api.ListBuilds(w.ctx, &imagebuilderv1.ListBuildsRequest{PageSize: 2, PageToken: page.GetNextPageToken(), Linearizable: true}))
	r.call("by requester, ref, phase and label")(api.ListBuilds(w.ctx, &imagebuilderv1.ListBuildsRequest{Filter: &imagebuilderv1.BuildFilter{
		Requester: "alice", Ref: res.GetBuild().GetRef(), Phases: []imagebuilderv1.Phase{succeeded}, Labels: map[string]string{"team": "a"},
	}}))
	r.call("none of the phase")(api.ListBuilds(w.ctx, &imagebuilderv1.ListBuildsRequest{Filter: &imagebuilderv1.BuildFilter{Phases: []imagebuilderv1.Phase{running}}}))
	r.call("all")(api.ListNodes(w.ctx, &imagebuilderv1.ListNodesRequest{}))
}

// hold keeps reads of layers of an image back until the returned function is called.
func (w *world) hold(image string) (source *imagebuilderv1.Source, release func()) {
	name, _, _ := strings.Cut(image, ":")
	return ref(upstream + "/team/" + image), w.proxy.Hold(on(upstream, "team/"+name, get(registrytest.Blobs)))
}

// nativeHeld plays calls about a build that runs: attach, detach, cancel.
func (w *world) nativeHeld() {
	api, r := w.n.Native, w.r
	r.section("native API: a build that runs", false)
	source, release := w.hold("held-a:1")
	res, err := api.BuildImage(w.ctx, &imagebuilderv1.BuildImageRequest{Source: source, Requester: "alice", RequestId: "held"})
	r.call("begins")(res, err)
	id := res.GetBuild().GetId()
	w.awaitPhase(id, running)
	r.call("runs")(api.BuildStatus(w.ctx, byID(id)))
	r.call("another requester joins")(api.BuildImage(w.ctx, &imagebuilderv1.BuildImageRequest{Source: source, Requester: "bob"}))
	r.call("the active build")(api.ResolveWorkspaceImage(w.ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: source}))
	short, cancel := context.WithTimeout(w.ctx, 300*time.Millisecond)
	defer cancel()
	wait := byID(id)
	wait.WaitFor = succeeded
	_, err = api.BuildStatus(short, wait)
	r.begin("BuildStatus: a wait that takes too long")
	r.line("%s", status.Code(err)) // client or server may find that first, each in its own words
	r.call("who did not ask")(api.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: id, Requester: "eve"}))
	r.call("one of two requesters")(api.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: id, Requester: "bob", Reason: "changed my mind"}))
	_, err = api.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: id, Requester: "alice", Reason: "not needed"})
	r.call("the last requester")(&imagebuilderv1.CancelBuildResponse{}, err) // the build may have ended by now
	w.awaitSealed(id)
	r.call("cancelled")(api.BuildStatus(w.ctx, byID(id)))
	release()

	source, release = w.hold("held-b:1")
	id = w.mustBuild(&imagebuilderv1.BuildImageRequest{Source: source, Requester: "alice"})
	w.awaitPhase(id, running)
	operator := imagebuilderv1.NewImageBuilderClient(w.socket())
	_, err = operator.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: id, Operator: true, Reason: "maintenance"})
	r.call("an operator")(&imagebuilderv1.CancelBuildResponse{}, err)
	w.awaitSealed(id)
	r.call("cancelled by an operator")(api.BuildStatus(w.ctx, byID(id)))
	release()
}

// nativePublishing cancels a build whose image is being tagged.
func (w *world) nativePublishing() {
	api, r := w.n.Native, w.r
	r.section("native API: a build that is published", false)
	release := w.proxy.Hold(on(install, "workspace-images", registrytest.Method(http.MethodPut, func(r *http.Request) bool {
		return registrytest.Manifests(r) && !strings.Contains(r.URL.Path, "sha256:")
	})))
	id := w.mustBuild(&imagebuilderv1.BuildImageRequest{Source: ref(upstream + "/team/published:1"), Requester: "alice"})
	w.awaitPhase(id, imagebuilderv1.Phase_PHASE_PUSHING)
	r.call("too late")(api.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: id, Requester: "alice"}))
	release()
	w.awaitSealed(id)
	r.call("was published")(api.BuildStatus(w.ctx, byID(id)))
}

// nativeFailures plays builds that fail by the fault of the user, and by their deadline. nativeLogs
// has one that fails by the infrastructure.
func (w *world) nativeFailures() {
	api, r := w.n.Native, w.r
	r.section("native API: builds that fail", false)
	play := func(step string, req *imagebuilderv1.BuildImageRequest) {
		id := w.mustBuild(req)
		w.awaitSealed(id)
		r.call(step)(api.BuildStatus(w.ctx, byID(id)))
	}
	w.proxy.Fail(on(upstream, "team/corrupt", get(registrytest.Blobs)), -1, http.StatusNotFound)
	play("a layer is not there", &imagebuilderv1.BuildImageRequest{Source: ref(upstream + "/team/corrupt:1"), Requester: "alice"})
	source, release := w.hold("late:1")
	play("the deadline comes", &imagebuilderv1.BuildImageRequest{Source: source, Requester: "alice", Timeout: durationpb.New(2 * time.Second)})
	release()
}

// nativeQueue plays builds of a node that gets none: they wait, and the queue is full.
func (w *world) nativeQueue() {
	api, r := w.n.Native, w.r
	r.section("native API: builds that wait", false)
	drain := func(undrain bool) {
		if _, err := w.n.Operator().DrainNode(w.ctx, &imagebuilderv1.DrainNodeRequest{Node: "n1", Undrain: undrain}); err != nil {
			w.t.Fatal(err)
		}
	}
	drain(false)
	var ids []string
	for i := range 2 {
		ids = append(ids, w.mustBuild(&imagebuilderv1.BuildImageRequest{Source: ref(fmt.Sprintf("%s/team/queued:%d", upstream, i+1)), Requester: "alice"}))
	}
	r.call("the queue is full")(api.BuildImage(w.ctx, &imagebuilderv1.BuildImageRequest{Source: ref(upstream + "/team/queued:3")}))
	r.call("queued")(api.BuildStatus(w.ctx, byID(ids[0])))
	r.call("queued")(api.ListBuilds(w.ctx, &imagebuilderv1.ListBuildsRequest{Filter: &imagebuilderv1.BuildFilter{Phases: []imagebuilderv1.Phase{queued}}}))
	r.call("a drained node")(api.ListNodes(w.ctx, &imagebuilderv1.ListNodesRequest{}))
	r.stream("BuildLogs", "of a queued build, without following")(drainLogs(api.BuildLogs(w.ctx, &imagebuilderv1.BuildLogsRequest{Build: &imagebuilderv1.BuildLogsRequest_Id{Id: ids[0]}})))
	r.call("a queued build")(api.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: ids[0], Requester: "alice"}))
	drain(true)
	w.awaitSealed(ids[1])
	r.call("was queued")(api.BuildStatus(w.ctx, byID(ids[1])))
}

// nativeWatch follows all changes of one build, again from an index in between, and from a
// snapshot after it.
func (w *world) nativeWatch() {
	api, r := w.n.Native, w.r
	r.section("native API: watches", false)
	filter := &imagebuilderv1.BuildFilter{Requester: "watched"}
	watch := func(req *imagebuilderv1.WatchBuildsRequest, done func(*imagebuilderv1.WatchBuildsResponse) bool) (all []*imagebuilderv1.WatchBuildsResponse) {
		w.t.Helper()
		ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
		defer cancel()
		stream, err := api.WatchBuilds(ctx, req)
		for err == nil {
			var m *imagebuilderv1.WatchBuildsResponse
			if m, err = stream.Recv(); err == nil {
				if all = append(all, m); done(m) {
					return all
				}
			}
		}
		w.t.Fatalf("the watch of %v broke after %v: %v", req, all, err)
		return nil
	}
	sealed := func(m *imagebuilderv1.WatchBuildsResponse) bool {
		a := m.GetBuild().GetAttempts()
		return m.GetBuild().GetEndedAt() != nil && len(a) > 0 && a[0].Log.GetState() == imagebuilderv1.LogState_LOG_STATE_SEALED
	}
	end := func(m *imagebuilderv1.WatchBuildsResponse) bool { return m.GetSnapshotEnd() }
	// Phases that pass quickly may share one event. QUEUED, RUNNING and the end are certain, and of
	// each the last event.
	record := func(step string, all []*imagebuilderv1.WatchBuildsResponse) {
		var out []proto.Message
		for i, m := range all {
			phase := m.GetBuild().GetPhase()
			if phase != queued && phase != running && phase != succeeded && m.GetBuild() != nil || i+1 < len(all) && all[i+1].GetBuild().GetPhase() == phase {
				continue
			}
			out = append(out, m)
		}
		r.stream("WatchBuilds", step)(out, nil)
	}
	empty := watch(&imagebuilderv1.WatchBuildsRequest{Filter: filter}, end)
	record("a snapshot of nothing", empty)
	after := empty[len(empty)-1].Index
	source, release := w.hold("watched:1")
	id := w.mustBuild(&imagebuilderv1.BuildImageRequest{Source: source, Requester: "watched"})
	w.awaitPhase(id, running)
	phases := &imagebuilderv1.BuildFilter{Requester: "watched", Phases: []imagebuilderv1.Phase{running}}
	record("a snapshot of a build that runs", watch(&imagebuilderv1.WatchBuildsRequest{Filter: phases}, end))
	release()
	w.awaitSealed(id)
	all := watch(&imagebuilderv1.WatchBuildsRequest{Filter: filter, AfterIndex: after}, sealed)
	record("all changes of a build", all)
	record("the changes after the first", watch(&imagebuilderv1.WatchBuildsRequest{Filter: filter, AfterIndex: all[0].Index}, sealed))
	left := watch(&imagebuilderv1.WatchBuildsRequest{Filter: phases, AfterIndex: after}, func(m *imagebuilderv1.WatchBuildsResponse) bool {
		return m.GetBuild().GetPhase() > running
	})
	record("a phase, resumed: up to the event that it is left", left[:len(left)-1])
	record("a snapshot of one build", watch(&imagebuilderv1.WatchBuildsRequest{Filter: filter}, end))
}

// drainLogs reads a log to its end. Parts that follow each other become one: their sizes depend on
// when they were read.
func drainLogs(stream grpc.ServerStreamingClient[imagebuilderv1.BuildLogsResponse], err error) (all []proto.Message, _ error) {
	var last *imagebuilderv1.BuildLogsResponse
	for err == nil {
		var m *imagebuilderv1.BuildLogsResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		if last != nil && !m.Marker && !last.Marker && m.Attempt == last.Attempt && m.Offset == last.Offset+int64(len(last.Content)) {
			last.Content = append(last.Content, m.Content...)
			continue
		}
		last = m
		all = append(all, m)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return all, err
}

// nativeLogs reads the log of a build in a workspace, whose bytes the play chooses.
func (w *world) nativeLogs() {
	api, r := w.n.Native, w.r
	r.section("native API: logs", false)
	w.nextWorkspace(workspace{output: "first line\nsecond line\n", ends: &wsman.WorkspaceConditions{Failed: "the disk is full"}})
	id := w.mustBuild(&imagebuilderv1.BuildImageRequest{Source: gitSource(nil), Requester: "alice"})
	w.awaitSealed(id)
	r.call("a build of two attempts")(api.BuildStatus(w.ctx, byID(id)))
	log := func(step string, req *imagebuilderv1.BuildLogsRequest) {
		if req.Build == nil {
			req.Build = &imagebuilderv1.BuildLogsRequest_Id{Id: id}
		}
		all, err := drainLogs(api.BuildLogs(w.ctx, req))
		r.begin("BuildLogs: %s", step)
		for _, m := range all {
			m := m.(*imagebuilderv1.BuildLogsResponse)
			// The service itself writes markers, and the last line of an attempt that failed.
			output, own := string(m.Content), ""
			if i := strings.Index(output, "attempt failed"); i >= 0 || m.Marker {
				output, own = output[:max(i, 0)], output[max(i, 0):]
			}
			if own != "" {
				r.text("line of the service", own)
				output += "text"
			}
			r.line("attempt %d, offset %d, marker %t: %q", m.Attempt, m.Offset, m.Marker, output)
		}
		r.end(err)
	}
	log("all attempts", &imagebuilderv1.BuildLogsRequest{})
	log("all attempts, by ref, up to the end", &imagebuilderv1.BuildLogsRequest{Build: &imagebuilderv1.BuildLogsRequest_Ref{Ref: w.build(id).Ref}, Follow: true})
	log("one attempt", &imagebuilderv1.BuildLogsRequest{Attempt: 2})
	log("from an offset", &imagebuilderv1.BuildLogsRequest{Attempt: 1, Offset: 6})
	log("from an offset of the first attempt", &imagebuilderv1.BuildLogsRequest{Offset: 6})
	log("from the end", &imagebuilderv1.BuildLogsRequest{Attempt: 2, Offset: w.build(id).Attempts[1].Log.Length})
	log("from behind the end", &imagebuilderv1.BuildLogsRequest{Attempt: 2, Offset: 1 << 20})
	log("from a negative offset", &imagebuilderv1.BuildLogsRequest{Offset: -1})
	log("no such attempt", &imagebuilderv1.BuildLogsRequest{Attempt: 9})
	log("no such attempt, up to the end", &imagebuilderv1.BuildLogsRequest{Attempt: 9, Follow: true})
	log("no such build", &imagebuilderv1.BuildLogsRequest{Build: &imagebuilderv1.BuildLogsRequest_Id{Id: "none"}})
	log("no build", &imagebuilderv1.BuildLogsRequest{Build: &imagebuilderv1.BuildLogsRequest_Id{}})

	// The stream of a build that runs: what there is first, then what comes.
	w.nextWorkspace(workspace{output: "third line\n", more: "fourth line\n", hold: make(chan struct{}), pushes: true})
	id = w.mustBuild(&imagebuilderv1.BuildImageRequest{Source: gitSource(func(_ *imagebuilderv1.DockerfileSource, g *imagebuilderv1.GitContext) {
		g.CloneTarget = fmt.Sprintf("%040d", 2)
	}), Requester: "alice"})
	stream, err := api.BuildLogs(w.ctx, &imagebuilderv1.BuildLogsRequest{Build: &imagebuilderv1.BuildLogsRequest_Id{Id: id}, Follow: true})
	if err != nil {
		w.t.Fatal(err)
	}
	read := ""
	for read != "third line\n" {
		m, err := stream.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		read += string(m.Content)
	}
	close(w.current().hold)
	all, err := drainLogs(stream, nil)
	r.stream("BuildLogs", "what comes while the build runs")(all, err)
	w.awaitSealed(id)
	r.call("built in a workspace")(api.BuildStatus(w.ctx, byID(id)))
}

// nativeUploads sends contexts.
func (w *world) nativeUploads() {
	r := w.r
	r.section("native API: uploads", false)
	send := func(step string, all ...*imagebuilderv1.UploadContextRequest) {
		stream, err := w.n.Native.UploadContext(w.ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, m := range all {
			if stream.Send(m) != nil {
				break // CloseAndRecv returns the reason
			}
		}
		r.call(step)(stream.CloseAndRecv())
	}
	const content = "no tar archive, but the service does not look"
	type part = imagebuilderv1.UploadContextRequest
	send("nothing")
	send("a digest that is none", &part{Digest: "sha256:x"})
	send("another digest", &part{Digest: someDigest, Chunk: []byte(content)})
	send("too large", &part{Digest: someDigest, Chunk: make([]byte, 1<<16)}, &part{Chunk: []byte("x")})
	send("a context", &part{Digest: sum(content), Chunk: []byte(content[:10])}, &part{Chunk: []byte(content[10:])})
	send("again", &part{Digest: sum(content)})
	id := w.mustBuild(&imagebuilderv1.BuildImageRequest{Source: uploadSource(sum(content)), Requester: "alice"})
	w.awaitSealed(id)
	r.call("a source that the runtime cannot build")(w.n.Native.BuildStatus(w.ctx, byID(id)))
}

// nativeCache changes the cache of references.
func (w *world) nativeCache() {
	api, r := w.n.Native, w.r
	r.section("native API: cached references", false)
	r.call("on the public port")(api.PutCachedRef(w.ctx, &imagebuilderv1.PutCachedRefRequest{Ref: upstream + "/team/app:1"}))
	r.call("on the public port")(api.DeleteCachedRef(w.ctx, &imagebuilderv1.DeleteCachedRefRequest{Ref: upstream + "/team/app:1"}))
	r.call("on the public port")(api.RefreshCachedRefs(w.ctx, &imagebuilderv1.RefreshCachedRefsRequest{}))
	r.call("on the public port")(api.SetCacheInterval(w.ctx, &imagebuilderv1.SetCacheIntervalRequest{}))
	r.call("nothing")(api.ListCachedRefs(w.ctx, &imagebuilderv1.ListCachedRefsRequest{}))
	op := imagebuilderv1.NewImageBuilderClient(w.socket())
	put := func(step, ref string, interval time.Duration) {
		req := &imagebuilderv1.PutCachedRefRequest{Ref: ref}
		if interval != 0 {
			req.Interval = durationpb.New(interval)
		}
		_, err := op.PutCachedRef(w.ctx, req)
		r.call(step)(&imagebuilderv1.PutCachedRefResponse{}, err) // it may be resolved by now
	}
	put("a reference", upstream+"/team/app:1", time.Hour)
	put("a reference without a tag", upstream+"/none", 0)
	put("a digest", upstream+"/team/app@"+someDigest, 0)
	put("no reference", "A B", 0)
	put("a short interval", upstream+"/team/app:1", time.Millisecond)
	put("a long interval", upstream+"/team/app:1", 10000*time.Hour)
	w.settleCache()
	r.call("a reference that resolves and one that does not")(op.ListCachedRefs(w.ctx, &imagebuilderv1.ListCachedRefsRequest{}))
	type interval = imagebuilderv1.SetCacheIntervalRequest
	r.call("the default")(op.SetCacheInterval(w.ctx, &interval{Interval: durationpb.New(7 * time.Hour)}))
	r.call("no interval")(op.SetCacheInterval(w.ctx, &interval{}))
	r.call("of one reference")(op.SetCacheInterval(w.ctx, &interval{Ref: upstream + "/team/app:1", Interval: durationpb.New(2 * time.Hour)}))
	r.call("the default again for one reference")(op.SetCacheInterval(w.ctx, &interval{Ref: upstream + "/team/app:1"}))
	r.call("of none")(op.SetCacheInterval(w.ctx, &interval{Ref: "ubuntu:22.04", Interval: durationpb.New(time.Hour)}))
	r.call("none")(op.DeleteCachedRef(w.ctx, &imagebuilderv1.DeleteCachedRefRequest{Ref: "ubuntu:22.04"}))
	r.call("no reference")(op.DeleteCachedRef(w.ctx, &imagebuilderv1.DeleteCachedRefRequest{Ref: "A B"}))
	r.call("one")(op.DeleteCachedRef(w.ctx, &imagebuilderv1.DeleteCachedRefRequest{Ref: upstream + "/none:latest"}))
	r.call("none")(op.RefreshCachedRefs(w.ctx, &imagebuilderv1.RefreshCachedRefsRequest{Refs: []string{"ubuntu:22.04"}}))
	r.call("all")(op.RefreshCachedRefs(w.ctx, &imagebuilderv1.RefreshCachedRefsRequest{}))
	w.settleCache()
	r.call("after all changes")(op.ListCachedRefs(w.ctx, &imagebuilderv1.ListCachedRefsRequest{}))
}

// settleCache waits until no cached reference is due.
func (w *world) settleCache() {
	w.t.Helper()
	testkit.Eventually(w.t, 20*time.Second, "all cached references are refreshed", func() bool {
		res, err := w.n.Native.ListCachedRefs(w.ctx, &imagebuilderv1.ListCachedRefsRequest{})
		if err != nil {
			return false
		}
		for _, c := range res.Refs {
			if c.RefreshingBy != "" || c.TriedAt == nil || c.DueAt == nil || time.Now().After(c.DueAt.AsTime()) {
				return false
			}
		}
		return true
	})
}
