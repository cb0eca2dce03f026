package wsmanager_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

// Test_Start_OfADockerfile compares the request with section 3 of the Gitpod contract.
func Test_Start_OfADockerfile(t *testing.T) {
	e := newEnv(t, func(o *wsmanager.Options) {
		o.Owner = func(*workload.Workload) string { return "user-1" }
		o.Supervisor = func(*workload.Workload) string { return "registry.example/supervisor:asked" }
	})
	w := dockerfileWorkload()
	w.Secrets.Git = &imagebuilderv1.BasicAuth{Username: "git", Password: "secret"}
	w.Rights.Additional = map[string]*imagebuilderv1.BasicAuth{
		"other.example":    {Username: "u", Password: "p"},
		"registry.example": {Username: "evil", Password: "evil"},
	}
	e.begin(w)
	want := &wsman.StartWorkspaceRequest{
		Id: buildID, ServicePrefix: buildID, Type: wsman.WorkspaceType_IMAGEBUILD,
		Metadata: &wsman.WorkspaceMetadata{
			Owner: "user-1", MetaId: buildID,
			Annotations: map[string]string{"ref": ref, "baseref": baseRef, "managed-by": "image-builder"},
		},
		Spec: &wsman.StartWorkspaceSpec{
			WorkspaceImage: "registry.example/builder:1", Timeout: "1h0m0s", WorkspaceLocation: "/workspace/b/docker",
			IdeImage: &wsman.IDEImage{WebRef: "registry.example/builder:1", SupervisorRef: "registry.example/supervisor:asked"},
			Initializer: &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{Git: &contentservice.GitInitializer{
				RemoteUri: "https://git.example/a/b", Upstream_RemoteUri: "https://git.example/up/b", TargetMode: contentservice.CloneTargetMode_REMOTE_COMMIT,
				CloneTaget: "abc", CheckoutLocation: "b", FullClone: true,
				Config: &contentservice.GitConfig{
					CustomConfig: map[string]string{"k": "v"}, Authentication: contentservice.GitAuthMethod_BASIC_AUTH, AuthUser: "git", AuthPassword: "secret",
				},
			}}},
			Envvars: []*wsman.EnvironmentVariable{
				{Name: "BOB_TARGET_REF", Value: "localhost:8080/target:latest"},
				{Name: "BOB_BASE_REF", Value: "localhost:8080/base:latest"},
				{Name: "BOB_BUILD_BASE", Value: "true"},
				{Name: "BOB_DOCKERFILE_PATH", Value: "/workspace/b/docker/Dockerfile"},
				{Name: "BOB_CONTEXT_DIR", Value: "/workspace/b/docker"},
				{Name: "GITPOD_TASKS", Value: `[{"name": "build", "init": "sudo -E /app/bob build"}]`},
				{Name: "WORKSPACEKIT_RING2_ENCLAVE", Value: "/app/bob proxy"},
				{Name: "WORKSPACEKIT_BOBPROXY_BASEREF", Value: baseRef},
				{Name: "WORKSPACEKIT_BOBPROXY_TARGETREF", Value: ref},
				{Name: "WORKSPACEKIT_BOBPROXY_AUTH", Secret: &wsman.EnvironmentVariable_SecretKeyRef{SecretName: "pull", Key: ".dockerconfigjson"}},
				{Name: "WORKSPACEKIT_BOBPROXY_ADDITIONALAUTH", Value: `{"other.example":{"username":"u","password":"p","auth":"dTpw"}}`},
				{Name: "SUPERVISOR_DEBUG_ENABLE", Value: "false"},
			},
		},
	}
	if d := cmp.Diff(want, e.m.Starts()[0], protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if d, err := time.ParseDuration(want.Spec.Timeout); err != nil || d != time.Hour {
		t.Errorf("timeout %v, %v", d, err)
	}
}

func Test_Start_OfARef(t *testing.T) {
	e := newEnv(t, func(o *wsmanager.Options) { o.PullSecret = "" })
	w := refWorkload()
	e.begin(w)
	got := e.m.Starts()[0]
	env := environment(got)
	for name, want := range map[string]string{
		"BOB_BASE_REF": "localhost:8080/base@" + digestB, "BOB_BUILD_BASE": "false", "BOB_CONTEXT_DIR": "/workspace",
		"WORKSPACEKIT_BOBPROXY_BASEREF": w.BaseRef, "WORKSPACEKIT_BOBPROXY_ADDITIONALAUTH": "{}",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
	if _, ok := env["WORKSPACEKIT_BOBPROXY_AUTH"]; ok {
		t.Error("a pull secret is named though none is configured")
	}
	if got.GetSpec().GetInitializer().GetEmpty() == nil {
		t.Errorf("initializer %v, want an empty one", got.GetSpec().GetInitializer())
	}
	if got.GetMetadata().GetOwner() == "" || got.GetSpec().GetIdeImage().GetSupervisorRef() != "registry.example/supervisor:1" {
		t.Errorf("owner or supervisor: %v", got)
	}
	var tasks []struct{ Name, Init string }
	if err := json.Unmarshal([]byte(env["GITPOD_TASKS"]), &tasks); err != nil || len(tasks) != 1 || tasks[0].Name != "build" {
		t.Errorf("GITPOD_TASKS %q: %v", env["GITPOD_TASKS"], err)
	}
}

func environment(r *wsman.StartWorkspaceRequest) map[string]string {
	out := map[string]string{}
	for _, v := range r.GetSpec().GetEnvvars() {
		out[v.GetName()] = v.GetValue()
	}
	return out
}

func Test_Start_PathsInTheContext(t *testing.T) {
	for _, c := range []struct{ file, context, wantFile, wantContext string }{
		{"", "", "/workspace/Dockerfile", "/workspace"},
		{"a/Dockerfile", "", "/workspace/a/Dockerfile", "/workspace/a"},
		{"a/Dockerfile", "b", "/workspace/a/Dockerfile", "/workspace/b"},
		{"a/Dockerfile", ".", "/workspace/a/Dockerfile", "/workspace"},
	} {
		e := newEnv(t)
		w := dockerfileWorkload()
		w.Source.GetDockerfile().DockerfilePath, w.Source.GetDockerfile().ContextPath = c.file, c.context
		e.begin(w)
		env := environment(e.m.Starts()[0])
		if env["BOB_DOCKERFILE_PATH"] != c.wantFile || env["BOB_CONTEXT_DIR"] != c.wantContext {
			t.Errorf("%+v: %s and %s", c, env["BOB_DOCKERFILE_PATH"], env["BOB_CONTEXT_DIR"])
		}
	}
}

// Test_Start_RefusesWhatAWorkspaceCannotDo checks that unsupported options are refused: if they
// were ignored, the image would differ from the requested one.
func Test_Start_RefusesWhatAWorkspaceCannotDo(t *testing.T) {
	for name, set := range map[string]func(*imagebuilderv1.DockerfileSource){
		"build_args":   func(d *imagebuilderv1.DockerfileSource) { d.BuildArgs = map[string]string{"a": "b"} },
		"target":       func(d *imagebuilderv1.DockerfileSource) { d.Target = "x" },
		"no_cache":     func(d *imagebuilderv1.DockerfileSource) { d.NoCache = true },
		"image_labels": func(d *imagebuilderv1.DockerfileSource) { d.ImageLabels = map[string]string{"a": "b"} },
		"secret_ids":   func(d *imagebuilderv1.DockerfileSource) { d.SecretIds = []string{"a"} },
		"network_mode": func(d *imagebuilderv1.DockerfileSource) { d.NetworkMode = "none" },
		"platforms":    func(d *imagebuilderv1.DockerfileSource) { d.Platforms = []string{"linux/arm64"} },
		"an uploaded context": func(d *imagebuilderv1.DockerfileSource) {
			d.Context = &imagebuilderv1.DockerfileSource_Upload{Upload: &imagebuilderv1.UploadedContext{Digest: digestA}}
		},
		"no context": func(d *imagebuilderv1.DockerfileSource) { d.Context = nil },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			w := dockerfileWorkload()
			set(w.Source.GetDockerfile())
			e.run(w).fails(builds.BlameUser, name)
			if n := e.m.Calls("StartWorkspace") + e.m.Calls("StopWorkspace"); n != 0 {
				t.Errorf("%d calls to start or stop", n)
			}
		})
	}
}

func Test_Start_NamesOfLaterAttempts(t *testing.T) {
	e := newEnv(t)
	e.m.AwaitSubscription(e.ctx)
	w := dockerfileWorkload()
	w.Attempt = 2
	e.run(w)
	id := wsmanager.WorkspaceID(buildID, 2)
	e.m.AwaitWorkspace(e.ctx, id)
	got := e.m.Starts()[0]
	if got.Id == buildID || got.Id != got.ServicePrefix || got.Metadata.MetaId != buildID {
		t.Errorf("started %v", got)
	}
	names, err := e.rt.List(context.Background())
	if d := cmp.Diff([]string{workload.Name(buildID, 2)}, names); err != nil || d != "" {
		t.Error(err, d)
	}
}

func Test_WorkspaceID(t *testing.T) {
	if got := wsmanager.WorkspaceID(buildID, 1); got != buildID {
		t.Errorf("attempt 1 has %s", got)
	}
	// Computed with Python: uuid.uuid5(uuid.UUID(build), "2").
	if got, want := wsmanager.WorkspaceID(buildID, 2), "e412b986-7af2-5617-b15a-a67cb8024f0f"; got != want {
		t.Errorf("attempt 2 has %s, want %s", got, want)
	}
	if a, b := wsmanager.WorkspaceID("no uuid", 2), wsmanager.WorkspaceID("no uuid", 3); a == b {
		t.Error("two attempts share an id")
	}
}

// Test_RequestAuth_NeverForTheInstallsHost checks that a request may not bring an identity for the
// host of the workspace images, in whatever spelling.
func Test_RequestAuth_NeverForTheInstallsHost(t *testing.T) {
	for own, names := range map[string][]string{
		"docker.io":               {"docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io", "DOCKER.IO", "https://docker.io"},
		"registry.example.com":    {"registry.example.com", "Registry.Example.com", "https://registry.example.com", "http://registry.example.com/v2/", "registry.example.com:443", "registry.example.com.", "//registry.example.com", " registry.example.com"},
		"registry.example.com:50": {"registry.example.com:50", "https://registry.example.com:50/"},
	} {
		w := refWorkload()
		w.Ref = own + "/workspace-images:1"
		w.Rights.Additional = map[string]*imagebuilderv1.BasicAuth{"other.example.com": {Username: "u"}}
		for _, name := range names {
			w.Rights.Additional[name] = &imagebuilderv1.BasicAuth{Username: "evil"}
		}
		got, err := wsmanager.RequestAuth(t.Context(), w)
		if err != nil || len(got) != 1 || got["other.example.com"] == nil {
			t.Errorf("%s: %v, %v", own, got, err)
		}
	}
}
