package test

import (
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
)

// gitServer serves a repository with one commit.
func gitServer(t *testing.T, password string, files map[string]string) (url, commit string) {
	t.Helper()
	r := newGitRepo(t, password)
	return r.url, r.commit(t, files)
}

// gitRepo is a repository behind a server.
type gitRepo struct {
	url  string
	work string
}

// newGitRepo serves an empty repository over HTTP as git itself does, behind
// basic authentication if a password is given.
func newGitRepo(t *testing.T, password string) *gitRepo {
	t.Helper()
	root := t.TempDir()
	r := &gitRepo{work: t.TempDir()}
	r.git(t, "init", "-q", "--bare", "-b", "main", filepath.Join(root, "app.git"))
	r.git(t, "init", "-q", "-b", "main")
	r.git(t, "remote", "add", "origin", filepath.Join(root, "app.git"))
	backend := &cgi.Handler{
		Path: filepath.Join(r.git(t, "--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); password != "" && p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	r.url = srv.URL + "/app.git"
	return r
}

func (r *gitRepo) git(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.work
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit commits files to the branch main and answers the commit.
func (r *gitRepo) commit(t *testing.T, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(r.work, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.git(t, "add", "-A")
	r.git(t, "commit", "-q", "-m", "another")
	r.git(t, "push", "-q", "origin", "main")
	return r.git(t, "rev-parse", "HEAD")
}

func gitpodFile(git *contentservice.GitInitializer, dockerfile, dir string) *builder.BuildSource {
	return &builder.BuildSource{From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{
		Source:         &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{Git: git}},
		DockerfilePath: dockerfile, ContextPath: dir, DockerfileVersion: "1",
	}}}
}

// Test_Gitpod_Dockerfile builds Dockerfiles from git through Gitpod's API:
// public, with a credential, with a one-time credential; failures are worded
// as Gitpod's server expects them.
func Test_Gitpod_Dockerfile(t *testing.T) {
	const password = "a-git-token-to-keep"
	w := newWorkshop(t, nil)
	url, commit := gitServer(t, password, map[string]string{
		"Dockerfile":       "FROM " + w.base + "\nCOPY sub/file.txt /file.txt\nRUN echo built > /built\n",
		"sub/file.txt":     "from git\n",
		"sub/Dockerfile":   "FROM " + w.base + "\nCOPY file.txt /file.txt\n",
		"Dockerfile.fails": "FROM " + w.base + "\nRUN echo no luck && exit 3\n",
		"Dockerfile.base":  "FROM " + w.reg.Addr + "/none:1\n",
	})
	ctx := timeout(t, 2*time.Minute)
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
		return &contentservice.GitInitializer{RemoteUri: url, TargetMode: contentservice.CloneTargetMode_REMOTE_BRANCH, CloneTaget: "main", Config: c}
	}
	for name, c := range map[string]struct {
		src     *builder.BuildSource
		status  builder.BuildStatus
		message string
	}{
		"branch": {gitpodFile(branch(basic), "Dockerfile", "."), builder.BuildStatus_done_success, ""},
		"commit, subdirectory, one-time credential": {gitpodFile(&contentservice.GitInitializer{
			RemoteUri: url, TargetMode: contentservice.CloneTargetMode_REMOTE_COMMIT, CloneTaget: commit, Config: once,
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
				if d := digestAt(t, end.Ref); d == "" || d != digestAt(t, end.BaseRef) {
					t.Errorf("refs: %q %q", d, digestAt(t, end.BaseRef))
				}
				if got := content(t, end.Ref, "file.txt"); got != "from git\n" {
					t.Errorf("the image holds %q", got)
				}
			}
		})
	}
	if n := redeemed.Load(); n != 1 {
		t.Errorf("the one-time credential was fetched %d times", n)
	}
	w.Stop()
	searchTree(t, w.Dir, password)
	searchTree(t, w.Dir, ots.URL+"/once")
}
