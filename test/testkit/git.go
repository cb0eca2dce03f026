package testkit

import (
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// GitRepo is a git repository that a web server serves, and a work tree of it.
type GitRepo struct {
	t testing.TB
	// URL is the repository's address.
	URL string
	// Dir is the work tree.
	Dir string
}

// GitServer configures the server of a GitRepo.
type GitServer struct {
	// Addr is the listen address. Empty means a free port of 127.0.0.1.
	Addr string
	// User and Password are the credentials for basic authentication. Without a password, the
	// server requires no authentication. Without a user, it accepts any user name.
	User, Password string
}

// NewGitRepo serves a repository without commits, whose branch is main, until
// the test ends.
func NewGitRepo(t testing.TB, o GitServer) *GitRepo {
	t.Helper()
	root := t.TempDir()
	// BuildKit caches repositories by URL, and tests reuse ports. So the name contains the name of
	// the temporary folder, which differs for each test.
	name := filepath.Base(filepath.Dir(root)) + "-" + filepath.Base(root) + ".git"
	r := &GitRepo{t: t, Dir: filepath.Join(root, name)}
	if err := os.Mkdir(r.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.Git("init", "-q", "-b", "main")
	backend := &cgi.Handler{
		Path: filepath.Join(r.Git("--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"},
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, password, _ := req.BasicAuth()
		if o.Password != "" && password != o.Password || o.User != "" && user != o.User {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, req)
	}))
	if o.Addr != "" {
		l, err := net.Listen("tcp", o.Addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = server.Listener.Close()
		server.Listener = l
	}
	server.Start()
	t.Cleanup(server.Close)
	r.URL = server.URL + "/" + name
	return r
}

// Git runs git in the work tree and returns its output without space around it.
func (r *GitRepo) Git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.Dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Commit writes files, by their path in the work tree, commits the whole work
// tree to its branch and returns the commit's id.
func (r *GitRepo) Commit(files map[string]string) string {
	r.t.Helper()
	for name, text := range files {
		path := filepath.Join(r.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	r.Git("add", "-A")
	r.Git("commit", "-q", "-m", "a commit")
	return r.Git("rev-parse", "HEAD")
}
