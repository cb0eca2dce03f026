package dockerfile

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

func gitpodFile(git *contentservice.GitInitializer, dockerfile, dir string) *builder.BuildSource {
	return &builder.BuildSource{From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{
		Source:         &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{Git: git}},
		DockerfilePath: dockerfile, ContextPath: dir, DockerfileVersion: "1",
	}}}
}

// Test_Gitpod_Dockerfile builds Dockerfiles from git through Gitpod's API: without a credential,
// with one, and with a one-time credential. The messages of failures are those that Gitpod's server
// expects.
func Test_Gitpod_Dockerfile(t *testing.T) {
	const password = "a-git-token-to-keep"
	w := buildkittest.Start(t, nil)
	repo := testkit.NewGitRepo(t, testkit.GitServer{Password: password})
	commit := repo.Commit(map[string]string{
		"Dockerfile":       "FROM " + w.Base + "\nCOPY sub/file.txt /file.txt\nRUN echo built > /built\n",
		"sub/file.txt":     "from git\n",
		"sub/Dockerfile":   "FROM " + w.Base + "\nCOPY file.txt /file.txt\n",
		"Dockerfile.fails": "FROM " + w.Base + "\nRUN echo no luck && exit 3\n",
		"Dockerfile.base":  "FROM " + w.Registry.Addr + "/none:1\n",
	})
	ctx := testkit.Context(t, 2*time.Minute)
	basic := &contentservice.GitConfig{Authentication: contentservice.GitAuthMethod_BASIC_AUTH, AuthUser: "oauth2", AuthPassword: password}
	var redeemed atomic.Int32
	ots := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if redeemed.Add(1) > 1 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte("oauth2:" + password))
	}))
	defer ots.Close()
	once := &contentservice.GitConfig{Authentication: contentservice.GitAuthMethod_BASIC_AUTH_OTS, AuthOts: ots.URL + "/once"}
	branch := func(c *contentservice.GitConfig) *contentservice.GitInitializer {
		return &contentservice.GitInitializer{RemoteUri: repo.URL, TargetMode: contentservice.CloneTargetMode_REMOTE_BRANCH, CloneTaget: "main", Config: c}
	}
	for name, c := range map[string]struct {
		src     *builder.BuildSource
		status  builder.BuildStatus
		message string
	}{
		"branch": {gitpodFile(branch(basic), "Dockerfile", "."), builder.BuildStatus_done_success, ""},
		"commit, subdirectory, one-time credential": {gitpodFile(&contentservice.GitInitializer{
			RemoteUri: repo.URL, TargetMode: contentservice.CloneTargetMode_REMOTE_COMMIT, CloneTaget: commit, Config: once,
		}, "sub/Dockerfile", "sub"), builder.BuildStatus_done_success, ""},
		"no credential": {gitpodFile(branch(nil), "Dockerfile", ""), builder.BuildStatus_done_failure, "build failed:"},
		"failing RUN":   {gitpodFile(branch(basic), "Dockerfile.fails", "."), builder.BuildStatus_done_failure, "build failed:"},
		"missing base":  {gitpodFile(branch(basic), "Dockerfile.base", "."), builder.BuildStatus_done_failure, "base image does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			all, err := w.BuildGitpod(ctx, &builder.BuildRequest{Source: c.src, TriggeredBy: "gitpod"})
			if err != nil || len(all) != 2 {
				t.Fatal(all, err)
			}
			end := all[1]
			if end.Status != c.status || !strings.Contains(end.Message, c.message) {
				t.Fatalf("got %v", end)
			}
			if c.status == builder.BuildStatus_done_success {
				if d := harness.DigestAt(t, end.Ref); d == "" || d != harness.DigestAt(t, end.BaseRef) {
					t.Errorf("refs: %q %q", d, harness.DigestAt(t, end.BaseRef))
				}
				if got := harness.FileAt(t, end.Ref, "file.txt"); got != "from git\n" {
					t.Errorf("the image holds %q", got)
				}
			}
		})
	}
	if n := redeemed.Load(); n != 1 {
		t.Errorf("the one-time credential was fetched %d times", n)
	}
	w.Stop()
	testkit.NoSecretBelow(t, w.Dir, password)
	testkit.NoSecretBelow(t, w.Dir, ots.URL+"/once")
}
