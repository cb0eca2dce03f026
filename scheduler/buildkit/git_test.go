package buildkit_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/test/testkit"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	head   = imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_HEAD
	commit = imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_COMMIT
	branch = imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_BRANCH
	local  = imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_LOCAL_BRANCH
)

// repo is a git repository behind a web server.
type repo struct {
	*testkit.GitRepo
	url string
}

// newRepo serves a repository, to anybody or to one user.
func newRepo(t *testing.T, user, password string) *repo {
	t.Helper()
	g := testkit.NewGitRepo(t, testkit.GitServer{User: user, Password: password})
	return &repo{g, g.URL}
}

// source returns a Dockerfile source in the repository.
func (r *repo) source(mode imagebuilderv1.GitTargetMode, target, dockerfile, dir string) *imagebuilderv1.DockerfileSource {
	return &imagebuilderv1.DockerfileSource{
		Context: &imagebuilderv1.DockerfileSource_Git{Git: &imagebuilderv1.GitContext{
			RemoteUri: r.url, CloneTarget: target, TargetMode: mode, CheckoutLocation: ".",
		}},
		DockerfilePath: dockerfile, ContextPath: dir,
	}
}

func Test_Run_GitContext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := newRepo(t, "", "")
	dockerfile := "FROM " + r.base + "\nCOPY . /c/\n"
	first := g.Commit(map[string]string{"Dockerfile": dockerfile, "v": "first", "app/Dockerfile": dockerfile, "app/v": "app", "docker/x.Dockerfile": dockerfile})
	g.Git("tag", "light")
	g.Git("tag", "-a", "-m", "m", "annotated")
	g.Git("checkout", "-q", "-b", "feature/x")
	g.Commit(map[string]string{"v": "feature"})
	g.Git("checkout", "-q", "main")
	g.Commit(map[string]string{"v": "second"})

	for name, test := range map[string]struct {
		source *imagebuilderv1.DockerfileSource
		want   string
	}{
		"head":                        {g.source(head, "", "Dockerfile", "."), "second"},
		"head ignores the target":     {g.source(head, "feature/x", "Dockerfile", "."), "second"},
		"local branch":                {g.source(local, "new", "Dockerfile", "."), "second"},
		"branch":                      {g.source(branch, "feature/x", "Dockerfile", "."), "feature"},
		"tag":                         {g.source(branch, "light", "Dockerfile", "."), "first"},
		"annotated tag":               {g.source(branch, "annotated", "Dockerfile", "."), "first"},
		"commit":                      {g.source(commit, first, "Dockerfile", "."), "first"},
		"no paths":                    {g.source(head, "", "", ""), "second"},
		"context in a folder":         {g.source(head, "", "app/Dockerfile", "app"), "app"},
		"folder of the Dockerfile":    {g.source(head, "", "app/Dockerfile", ""), "app"},
		"Dockerfile of the context":   {g.source(head, "", "", "app"), "app"},
		"Dockerfile elsewhere":        {g.source(head, "", "docker/x.Dockerfile", "app"), "app"},
		"Dockerfile beside a context": {g.source(head, "", "docker/x.Dockerfile", "."), "second"},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := r.mustRun(t, r.workload(test.source))
			if got := read(t, r.reg.Pull(t, "bases@"+out.Digest), "c/v"); got != test.want {
				t.Errorf("the context holds %q, want %q", got, test.want)
			}
		})
	}
	r.mustFail(t, r.workload(g.source(branch, "nothing", "", "")), user, "nothing")
	r.mustFail(t, r.workload(g.source(commit, strings.Repeat("ab", 20), "", "")), user, "load the git repository")
	r.mustFail(t, r.workload(g.source(head, "", "none/Dockerfile", ".")), user, "no Dockerfile at none/Dockerfile")
	r.mustFail(t, r.workload(g.source(head, "", "Dockerfile", "none")), user, "none")
	r.mustFail(t, r.workload(g.source(head, "", "../Dockerfile", "")), user, "leaves the build context")
	r.mustFail(t, r.workload(g.source(branch, "--upload-pack=x", "", "")), user, "not a branch")
}

func Test_Run_PrivateGitContext(t *testing.T) {
	r := newRig(t)
	g := newRepo(t, "oauth2", "git-t0ken")
	id := g.Commit(map[string]string{"Dockerfile": "FROM " + r.base + "\nCOPY Dockerfile /c\nRUN env\n"})
	build := func(mode imagebuilderv1.GitTargetMode, target, password string) *workload.Workload {
		w := r.workload(g.source(mode, target, "Dockerfile", "."))
		if password != "" {
			w.Secrets.Git = &imagebuilderv1.BasicAuth{Username: "oauth2", Password: password}
		}
		return w
	}
	r.mustFail(t, build(head, "", ""), user, "no right to read the git repository", g.url)
	r.mustFail(t, build(head, "", "guess"), user, "no right to read the git repository", g.url)
	_, s := r.mustRun(t, build(head, "", "git-t0ken"))
	_, c := r.mustRun(t, build(commit, id, "git-t0ken"))
	if strings.Contains(s.text()+c.text(), "git-t0ken") {
		t.Error("the log shows the token")
	}
	// The daemon has the commit cached now; a request without the right must still be refused.
	r.mustFail(t, build(commit, id, ""), user, "no right to read the git repository")
	stolen := r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\nADD " + g.url + "#" + id + " /stolen\n"})
	r.mustFail(t, stolen, user, "no right to read the git repository")

	// Docker's own mechanism for repositories that a Dockerfile adds.
	added := r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\nADD " + g.url + "#" + id + " /added\n"})
	added.Secrets.Build = map[string][]byte{"GIT_AUTH_HEADER": []byte("basic " + base64.StdEncoding.EncodeToString([]byte("oauth2:git-t0ken")))}
	r.mustRun(t, added)

	// No Dockerfile can mount the token, under any name.
	g.Commit(map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN --mount=type=secret,id=GIT_AUTH_TOKEN,required=true true\n"})
	r.mustFail(t, build(head, "", "git-t0ken"), user, "secret GIT_AUTH_TOKEN: not found")
}

func Test_Run_GitServerThatIsGoneIsNobodysFault(t *testing.T) {
	r := newRig(t)
	server := httptest.NewServer(http.NotFoundHandler())
	missing := r.workload((&repo{url: server.URL + "/a.git"}).source(head, "", "", ""))
	r.mustFail(t, missing, user, "does not exist")
	server.Close()
	w := r.workload((&repo{url: server.URL + "/a.git"}).source(head, "", "", ""))
	w.Secrets = &buildsv1.Secrets{}
	r.mustFail(t, w, infrastructure, "request the git repository")
}
