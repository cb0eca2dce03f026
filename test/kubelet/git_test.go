//go:build kubernetes

package kubelet_test

import (
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/test/kubelet"
)

// gitRepo is a repository that is served where pods reach it.
type gitRepo struct {
	t         *testing.T
	work, url string
}

// newGitRepo serves a repository over HTTP, with a password if there is one.
func newGitRepo(t *testing.T, password string) *gitRepo {
	t.Helper()
	root := t.TempDir()
	r := &gitRepo{t: t, work: t.TempDir()}
	r.git("init", "-q", "--bare", "-b", "main", filepath.Join(root, "app.git"))
	r.git("init", "-q", "-b", "main")
	r.git("remote", "add", "origin", filepath.Join(root, "app.git"))
	backend := &cgi.Handler{
		Path: filepath.Join(r.git("--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"},
	}
	r.url = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); password != "" && p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	})) + "/app.git"
	return r
}

// serve serves HTTP where pods reach it, and answers the URL.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	return serveAt(t, kubelet.Address+":0", h)
}

func serveAt(t *testing.T, addr string, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // it ends by Close
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

func (r *gitRepo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.work
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit commits files to the branch main.
func (r *gitRepo) commit(files map[string]string) {
	r.t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(r.work, name), []byte(text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("add", "-A")
	r.git("commit", "-q", "-m", "another")
	r.git("push", "-q", "origin", "main")
}
