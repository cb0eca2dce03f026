package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds/buildstest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const ubuntu = "docker.io/library/ubuntu:22.04"

func wantCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v, want %s with %q", err, code, text)
	}
}

// gitSource is a Dockerfile source in both APIs' words.
func gitSource(uri, target, dockerfile, version, dir string) (*imagebuilderv1.Source, *builder.BuildSource) {
	n := &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{
		Context:        &imagebuilderv1.DockerfileSource_Git{Git: &imagebuilderv1.GitContext{RemoteUri: uri, CloneTarget: target}},
		DockerfilePath: dockerfile, DockerfileVersion: version, ContextPath: dir,
	}}}
	g := &builder.BuildSource{From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{
		Source: &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{
			Git: &contentservice.GitInitializer{RemoteUri: uri, CloneTaget: target},
		}},
		DockerfilePath: dockerfile, DockerfileVersion: version, ContextPath: dir,
	}}}
	return n, g
}

func Test_Vectors_ThroughBothAPIs(t *testing.T) {
	a := newAPI(t)
	ctx := t.Context()
	for i, d := range loadVectors(t).Dockerfiles {
		native, gitpod := gitSource(d.RemoteURI, d.CloneTarget, d.DockerfilePath, d.DockerfileVersion, d.ContextPath)
		n, nerr := a.native.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: native})
		g, gerr := a.gitpod.ResolveWorkspaceImage(ctx, &builder.ResolveWorkspaceImageRequest{Source: gitpod})
		if i >= 2 { // no URI; `..` in the context path
			wantCode(t, nerr, codes.InvalidArgument, "")
			wantCode(t, gerr, codes.InvalidArgument, "")
			continue
		}
		if nerr != nil || gerr != nil {
			t.Fatal(nerr, gerr)
		}
		if n.Ref != d.WorkspaceRef || n.BaseRef != d.BaseRef || g.Ref != d.WorkspaceRef || g.BaseRef != d.BaseRef {
			t.Errorf("vector %d: got %s %s and %s %s", i+1, n.Ref, n.BaseRef, g.Ref, g.BaseRef)
		}
	}
	digested := loadVectors(t).WorkspaceRefs[0]
	a.shelf.images[digested.BaseRef] = digested.BaseRef[strings.IndexByte(digested.BaseRef, '@')+1:]
	g, err := a.gitpod.ResolveWorkspaceImage(ctx, &builder.ResolveWorkspaceImageRequest{Source: gitpodRef(digested.BaseRef)})
	if err != nil || g.Ref != digested.WorkspaceRef {
		t.Errorf("digest vector: got %v, %v", g, err)
	}
	n, err := a.native.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: refSource(digested.BaseRef)})
	if err != nil || n.Ref != digested.WorkspaceRef {
		t.Errorf("digest vector, native: got %v, %v", n, err)
	}
	resolved := loadVectors(t).WorkspaceRefs[1]
	a.shelf.images[resolved.BaseRef] = "sha256:abc"
	native, gitpod := gitSource("https://example.com/a.git", "main", "Dockerfile", "1", ".")
	b, err := a.native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{Source: native, BaseImageNameResolved: resolved.BaseRef})
	if err != nil || b.Build.Ref != resolved.WorkspaceRef || b.Build.BaseRef != resolved.BaseRef {
		t.Errorf("base_image_name_resolved, native: got %v, %v", b, err)
	}
	stream, err := a.gitpod.Build(ctx, &builder.BuildRequest{Source: gitpod, BaseImageNameResolved: resolved.BaseRef})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := stream.Recv(); err != nil || res.Ref != resolved.WorkspaceRef || res.Info.BuildId != b.Build.Id {
		t.Errorf("base_image_name_resolved: got %v, %v", res, err)
	}
}

// Test_BaseImageResolved_ThatIsGone: where the base image that an earlier build
// published does not resolve any more the source is built; where its registry
// cannot be asked now that is the answer.
func Test_BaseImageResolved_ThatIsGone(t *testing.T) {
	const base = "old.example.com/base-images:1"
	for name, c := range map[string]struct {
		err  error
		gone bool
	}{
		"not there":       {&builds.ImageError{Kind: builds.ImageNotFound, Err: errors.New("no")}, true},
		"no right":        {&builds.ImageError{Kind: builds.ImageUnauthorized, Err: errors.New("no")}, true},
		"refused":         {&builds.ImageError{Kind: builds.ImageInvalid, Err: errors.New("no")}, true},
		"no such host":    {&builds.ImageError{Kind: builds.ImageUnavailable, Err: &net.DNSError{IsNotFound: true}}, true},
		"no answer":       {&builds.ImageError{Kind: builds.ImageUnavailable, Err: errors.New("no")}, false},
		"no name service": {&builds.ImageError{Kind: builds.ImageUnavailable, Err: &net.DNSError{IsTimeout: true}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPIWith(t, func(o *api.ServiceOptions) { o.Dockerfiles = true })
			a.shelf.fail[base] = c.err
			native, gitpod := gitSource("https://example.com/a.git", "main", "Dockerfile", "1", ".")
			stream, err := a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: gitpod, BaseImageNameResolved: base})
			if err != nil {
				t.Fatal(err)
			}
			res, gerr := stream.Recv()
			b, nerr := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: native, BaseImageNameResolved: base})
			if !c.gone {
				wantCode(t, gerr, codes.Unavailable, "")
				wantCode(t, nerr, codes.Unavailable, "")
				return
			}
			if gerr != nil || nerr != nil {
				t.Fatal(gerr, nerr)
			}
			if b.Build.BaseRef == base || b.Build.Source.GetDockerfile() == nil || res.BaseRef != b.Build.BaseRef {
				t.Errorf("got %v and %v, want a build of the source", b, res)
			}
		})
	}
}

func Test_Gitpod_BuildStream(t *testing.T) {
	a := newAPI(t)
	stream, err := a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: gitpodRef(ubuntu), TriggeredBy: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.Status != builder.BuildStatus_running || first.Ref == "" || first.BaseRef == "" || first.Info.GetBuildId() == "" {
		t.Fatalf("first message: %v, %v", first, err)
	}
	a.raft.mu.Lock()
	a.Succeed(first.Info.BuildId)
	a.raft.mu.Unlock()
	last, err := stream.Recv()
	if err != nil || last.Status != builder.BuildStatus_done_success || last.Info.Status != last.Status {
		t.Fatalf("last message: %v, %v", last, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v, want OK", err)
	}
	a.shelf.images[first.Ref] = "sha256:d"
	stream, err = a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: gitpodRef(ubuntu)})
	if err != nil {
		t.Fatal(err)
	}
	if only, err := stream.Recv(); err != nil || only.Status != builder.BuildStatus_done_success || only.Info != nil {
		t.Errorf("existing image: %v, %v, want one message without info", only, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("existing image: %v after the message, want the end", err)
	}
}

func Test_Gitpod_Blame(t *testing.T) {
	a := newAPI(t)
	for _, c := range []struct {
		blame   imagebuilderv1.Blame
		message string
		want    string
		user    bool
	}{
		{builds.BlameUser, "step 3 failed", "build failed: step 3 failed", true},
		{builds.BlameUser, "build failed: step 3", "build failed: step 3", true},
		{builds.BlameUser, "base image does not exist: x", "base image does not exist", true},
		{builds.BlameQuota, "cannot resolve image x; headless task failed: y", "the build did not succeed", false},
	} {
		stream, err := a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: gitpodRef(ubuntu)})
		if err != nil {
			t.Fatal(err)
		}
		first, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		a.raft.mu.Lock()
		id := first.Info.BuildId
		a.Finish(id, a.Assign(id), buildstest.FinishFailed(c.blame, c.message))
		a.raft.mu.Unlock()
		last, err := stream.Recv()
		if err != nil || last.Status != builder.BuildStatus_done_failure || !strings.HasPrefix(last.Message, c.want) {
			t.Errorf("%s %q: got %v, %v", c.blame, c.message, last, err)
		}
		if !c.user && (strings.Contains(last.Message, "cannot resolve image") || strings.Contains(last.Message, "headless task failed:")) {
			t.Errorf("a fault of the install is worded as the user's: %q", last.Message)
		}
	}
}

func Test_DockerfileWithoutRuntime(t *testing.T) {
	a := newAPI(t)
	native, _ := gitSource("https://example.com/a.git", "main", "Dockerfile", "1", ".")
	_, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: native})
	wantCode(t, err, codes.FailedPrecondition, "no runtime for Dockerfile builds")
	base := api.DockerfileKey{RemoteURI: "https://example.com/a.git", CloneTarget: "main", DockerfilePath: "Dockerfile", DockerfileVersion: "1", ContextPath: "."}.BaseRef(baseRepo)
	a.shelf.images[base] = "sha256:b"
	res, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: native})
	if err != nil || res.Build.GetSource().GetRef() == nil || res.Build.GetBaseRef() != base {
		t.Errorf("an existing base image makes it a copy: got %v, %v", res, err)
	}
}

func Test_RequestID_NeedsNoRegistry(t *testing.T) {
	a := newAPI(t)
	req := &imagebuilderv1.BuildImageRequest{RequestId: "q", Source: refSource(ubuntu), Requester: "alice"}
	first, err := a.native.BuildImage(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	a.shelf.fail[ubuntu] = &builds.ImageError{Kind: builds.ImageUnavailable, Err: errors.New("down")}
	again, err := a.native.BuildImage(t.Context(), req)
	if err != nil || again.Build.Id != first.Build.Id || again.Attached {
		t.Errorf("got %v, %v, want build %s", again, err, first.Build.Id)
	}
	req.Force = true
	_, err = a.native.BuildImage(t.Context(), req)
	wantCode(t, err, codes.InvalidArgument, "request id")
}

// Test_RequestID_OfTheServiceIsSoonForgotten: a call without a request id leaves
// nothing behind but its build.
func Test_RequestID_OfTheServiceIsSoonForgotten(t *testing.T) {
	a := newAPI(t)
	a.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	records := func() uint64 {
		a.Must(&buildsv1.Reap{})
		h := new(buildsv1.SnapshotHeader)
		if err := protodelim.UnmarshalFrom(bytes.NewReader(buildstest.Dump(t, a.Store)), h); err != nil {
			t.Fatal(err)
		}
		return h.Records
	}
	before := records()
	if _, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: refSource(ubuntu), Requester: "alice"}); err != nil {
		t.Fatal(err)
	}
	if n := records(); n != before+2 {
		t.Errorf("a build and its request id are %d records", n-before)
	}
	a.Now = a.Now.Add(10 * time.Minute)
	if n := records(); n != before+1 {
		t.Errorf("after 10 minutes they are %d records", n-before)
	}
}

func Test_BadInput(t *testing.T) {
	a := newAPI(t)
	big := strings.Repeat("x", 1<<20)
	dockerfile := func(change func(*imagebuilderv1.DockerfileSource)) *imagebuilderv1.Source {
		n, _ := gitSource("https://example.com/a.git", "main", "Dockerfile", "1", ".")
		change(n.GetDockerfile())
		return n
	}
	for name, req := range map[string]*imagebuilderv1.BuildImageRequest{
		"empty":             {},
		"source":            {Source: &imagebuilderv1.Source{}},
		"ref without value": {Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{}}},
		"empty ref":         {Source: refSource("")},
		"long ref":          {Source: refSource(big)},
		"newline":           {Source: refSource("ubuntu\n")},
		"NUL":               {Source: refSource("ubuntu\x00")},
		"dockerfile":        {Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{}}},
		"no context":        {Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{}}}},
		"dotdot":            {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) { d.DockerfilePath = "a/../../etc/passwd" })},
		"absolute":          {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) { d.ContextPath = "/etc" })},
		"option as target":  {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) { d.GetGit().CloneTarget = "--upload-pack=x" })},
		"file URI":          {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) { d.GetGit().RemoteUri = "file:///etc" })},
		"secret in URI": {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) {
			d.GetGit().RemoteUri = "https://u:hunter2-secret@example.com/a.git"
		})},
		"token in URI": {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) {
			d.GetGit().RemoteUri = "https://hunter2-secret@example.com/a.git"
		})},
		"requester":     {Source: refSource(ubuntu), Requester: big},
		"request id":    {Source: refSource(ubuntu), RequestId: "a\x00b"},
		"labels":        {Source: refSource(ubuntu), Labels: map[string]string{"": "x"}},
		"timeout":       {Source: refSource(ubuntu), Timeout: durationpb.New(-time.Second)},
		"long timeout":  {Source: refSource(ubuntu), Timeout: durationpb.New(100 * time.Hour)},
		"resolved base": {Source: refSource(ubuntu), BaseImageNameResolved: "a\nb"},
	} {
		_, err := a.native.BuildImage(t.Context(), req)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v, want INVALID_ARGUMENT", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || len(err.Error()) > 1000) {
			t.Errorf("%s: the error shows the input: %.200s", name, err)
		}
	}
	if n := a.Counts().Builds; n != 0 {
		t.Errorf("bad input left %d builds", n)
	}
}

func Test_BadInput_Gitpod(t *testing.T) {
	a := newAPI(t)
	file := func(w *contentservice.WorkspaceInitializer) *builder.BuildSource {
		return &builder.BuildSource{From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{Source: w}}}
	}
	for name, src := range map[string]*builder.BuildSource{
		"nil": nil, "empty": {}, "nil ref": {From: &builder.BuildSource_Ref{}}, "nil file": {From: &builder.BuildSource_File{}},
		"no initializer": file(nil), "empty spec": file(&contentservice.WorkspaceInitializer{}),
		"nil git":   file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{}}),
		"empty git": file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{Git: &contentservice.GitInitializer{}}}),
		"snapshot":  file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Snapshot{}}),
		"prebuild":  file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Prebuild{}}),
		"composite": file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Composite{}}),
		"download":  file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Download{}}),
		"backup":    file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Backup{}}),
	} {
		_, err := a.gitpod.ResolveWorkspaceImage(t.Context(), &builder.ResolveWorkspaceImageRequest{Source: src})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: resolve: got %v, want INVALID_ARGUMENT", name, err)
		}
		stream, err := a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: src})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: build: got %v, want INVALID_ARGUMENT", name, err)
		}
	}
	for name, auth := range map[string]*builder.BuildRegistryAuth{
		"not base64": {Additional: map[string]string{"h": "hunter2-secret"}},
		"no colon":   {Additional: map[string]string{"h": base64.StdEncoding.EncodeToString([]byte("hunter2-secret"))}},
	} {
		_, err := a.gitpod.ResolveBaseImage(t.Context(), &builder.ResolveBaseImageRequest{Ref: ubuntu, Auth: auth})
		wantCode(t, err, codes.InvalidArgument, "auth.additional")
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the secret", name)
		}
	}
}

func Test_RegistryErrors_Codes(t *testing.T) {
	a := newAPI(t)
	for kind, want := range map[builds.ImageErrorKind]struct {
		code codes.Code
		user bool
	}{
		builds.ImageInvalid: {codes.InvalidArgument, false}, builds.ImageNotFound: {codes.NotFound, true},
		builds.ImageUnauthorized: {codes.Unauthenticated, true}, builds.ImageUnavailable: {codes.Unavailable, false},
	} {
		a.shelf.fail[ubuntu] = &builds.ImageError{Kind: kind, Ref: ubuntu, Err: errors.New("it says no about " + ubuntu)}
		_, err := a.gitpod.ResolveBaseImage(t.Context(), &builder.ResolveBaseImageRequest{Ref: ubuntu})
		wantCode(t, err, want.code, ubuntu)
		if got := strings.Contains(status.Convert(err).Message(), "cannot resolve image"); got != want.user {
			t.Errorf("%s: blames the user %v, want %v", want.code, got, want.user)
		}
	}
}

func Test_Rights_SelectTheHosts(t *testing.T) {
	a := newAPI(t)
	_, err := a.gitpod.ResolveBaseImage(t.Context(), &builder.ResolveBaseImageRequest{Ref: ubuntu, Auth: &builder.BuildRegistryAuth{
		Mode:       &builder.BuildRegistryAuth_Selective{Selective: &builder.BuildRegistryAuthSelective{AllowBaserep: true, AnyOf: []string{"Other.example.com"}}},
		Additional: map[string]string{"h": base64.StdEncoding.EncodeToString([]byte("user:pass:word"))},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := a.shelf.rights[0]
	if r.AllowAll || strings.Join(r.Hosts, ",") != "other.example.com,registry.example.com" || r.Additional["h"].GetPassword() != "pass:word" {
		t.Errorf("got %v", r)
	}
}

func Test_Operator_MethodsOnThePublicPort(t *testing.T) {
	a := newAPI(t)
	id := a.Create("r:1").Build.Id
	_, err := a.native.PutCachedRef(t.Context(), &imagebuilderv1.PutCachedRefRequest{Ref: ubuntu})
	wantCode(t, err, codes.PermissionDenied, "unix socket")
	_, err = a.native.DeleteCachedRef(t.Context(), &imagebuilderv1.DeleteCachedRefRequest{Ref: ubuntu})
	wantCode(t, err, codes.PermissionDenied, "unix socket")
	_, err = a.native.CancelBuild(t.Context(), &imagebuilderv1.CancelBuildRequest{Id: id, Operator: true})
	wantCode(t, err, codes.PermissionDenied, "unix socket")
	a.WantPhase(id, builds.Queued)
}

func Test_List_PagesNewestFirst(t *testing.T) {
	a := newAPI(t)
	for range 25 {
		a.Create("r:" + string(rune('a'+a.IDs)))
	}
	var got []string
	token := ""
	for {
		res, err := a.native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{PageSize: 10, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range res.Builds {
			got = append(got, b.Id)
		}
		if token = res.NextPageToken; token == "" {
			break
		}
	}
	if len(got) != 25 || got[0] < got[24] {
		t.Errorf("got %d builds from %s to %s, want 25 newest first", len(got), got[0], got[len(got)-1])
	}
	_, err := a.native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{PageSize: -1})
	wantCode(t, err, codes.InvalidArgument, "page_size")
	gl, err := a.gitpod.ListBuilds(t.Context(), &builder.ListBuildsRequest{})
	if err != nil || len(gl.Builds) != 25 || gl.Builds[0].BuildId != got[0] || gl.Builds[0].Status != builder.BuildStatus_running {
		t.Errorf("Gitpod's list: %d builds, %v", len(gl.GetBuilds()), err)
	}
}

func Test_Watch_SnapshotThenChangesThenResume(t *testing.T) {
	a := newAPI(t)
	first := a.Create("r:1").Build.Id
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := a.native.WatchBuilds(ctx, &imagebuilderv1.WatchBuildsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *imagebuilderv1.WatchBuildsResponse {
		t.Helper()
		ev, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return ev
	}
	if ev := next(); ev.GetBuild().GetId() != first {
		t.Fatalf("snapshot: %v", ev)
	}
	end := next()
	if !end.GetSnapshotEnd() {
		t.Fatalf("after the snapshot: %v", end)
	}
	second := a.Create("r:2").Build.Id
	if ev := next(); ev.GetBuild().GetId() != second || ev.Index <= end.Index {
		t.Fatalf("change: %v", ev)
	}
	cancel()
	third := a.Create("r:3").Build.Id
	stream, err = a.native.WatchBuilds(t.Context(), &imagebuilderv1.WatchBuildsRequest{AfterIndex: end.Index})
	if err != nil {
		t.Fatal(err)
	}
	if got := []string{next().GetBuild().GetId(), next().GetBuild().GetId()}; got[0] != second || got[1] != third {
		t.Errorf("resumed: %v, want %s and %s", got, second, third)
	}
}

// Test_Watch_TellsWhatLeavesItsPhases: once, also where the watch was resumed
// meanwhile; the rest of the filter holds.
func Test_Watch_TellsWhatLeavesItsPhases(t *testing.T) {
	a := newAPI(t)
	f := &imagebuilderv1.BuildFilter{Phases: []imagebuilderv1.Phase{builds.Queued, builds.Assigned}, Requester: "bob"}
	id := a.Create("r:1", buildstest.By("bob")).Build.Id
	begin := a.Index
	other := a.Create("r:2").Build.Id
	stream, err := a.native.WatchBuilds(t.Context(), &imagebuilderv1.WatchBuildsRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the build and the end of the snapshot
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	a.Succeed(id)
	a.Succeed(other)
	last := a.Create("r:3", buildstest.By("bob")).Build.Id
	resumed, err := a.native.WatchBuilds(t.Context(), &imagebuilderv1.WatchBuildsRequest{Filter: f, AfterIndex: begin})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]imagebuilderv1.ImageBuilder_WatchBuildsClient{"from the beginning": stream, "resumed": resumed} {
		outside := 0
		for {
			ev, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if ev.GetBuild().GetId() == last {
				break
			}
			if b := ev.GetBuild(); b.GetId() != id {
				t.Errorf("%s: told %v", name, ev)
			} else if b.Phase > builds.Assigned {
				outside++
			}
		}
		if outside != 1 {
			t.Errorf("%s: the build that left the phases was told %d times, want 1", name, outside)
		}
	}
}

func Test_Cancel_ThroughTheAPI(t *testing.T) {
	a := newAPI(t)
	res, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: refSource(ubuntu), Requester: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.native.CancelBuild(t.Context(), &imagebuilderv1.CancelBuildRequest{Id: res.Build.Id, Requester: "mallory"})
	wantCode(t, err, codes.PermissionDenied, "requested")
	out, err := a.native.CancelBuild(t.Context(), &imagebuilderv1.CancelBuildRequest{Id: res.Build.Id, Requester: "alice", Reason: "not needed"})
	if err != nil || out.Build.Phase != builds.Cancelled || !strings.Contains(out.Build.Message, "not needed") {
		t.Errorf("got %v, %v", out, err)
	}
	_, err = a.native.CancelBuild(t.Context(), &imagebuilderv1.CancelBuildRequest{Id: "none"})
	wantCode(t, err, codes.NotFound, "build not found")
	st, err := a.gitpod.Logs(t.Context(), &builder.LogsRequest{BuildRef: "none"})
	if err == nil {
		_, err = st.Recv()
	}
	wantCode(t, err, codes.NotFound, "build not found")
}
