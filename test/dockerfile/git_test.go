package dockerfile

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Git_ACommitIsAnImage builds a branch with options. A request of the same commit joins the
// build or finds its image, and another commit is another image.
func Test_Git_ACommitIsAnImage(t *testing.T) {
	const password = "git-token-of-the-request"
	w := buildkittest.Start(t, nil)
	repo := testkit.NewGitRepo(t, testkit.GitServer{Password: password})
	first := repo.Commit(map[string]string{"Dockerfile": "FROM " + w.Base + "\nARG WAIT=0\nCOPY v /v\nRUN sleep $WAIT\n", "v": "first"})
	ctx := testkit.Context(t, 2*time.Minute)
	ask := func(requester, password string) (*imagebuilderv1.BuildImageResponse, error) {
		return w.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
			RequestId: requester, Requester: requester, GitAuth: &imagebuilderv1.BasicAuth{Username: "u", Password: password},
			Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{
				Context: &imagebuilderv1.DockerfileSource_Git{Git: &imagebuilderv1.GitContext{
					RemoteUri: repo.URL, CloneTarget: "main", TargetMode: imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_BRANCH,
				}},
				BuildArgs: map[string]string{"WAIT": "2"},
			}}},
		})
	}
	mustAsk := func(requester string) *imagebuilderv1.BuildImageResponse {
		t.Helper()
		res, err := ask(requester, password)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if _, err := ask("mallory", "a guess"); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "no right to read the git repository") {
		t.Errorf("with a wrong credential: %v", err)
	}
	one := mustAsk("alice")
	if g := one.Build.Source.GetDockerfile().GetGit(); g.GetCloneTarget() != first {
		t.Errorf("the build is of %v, want commit %s", g, first)
	}
	if res := mustAsk("bob"); !res.Attached || res.Build.Id != one.Build.Id {
		t.Errorf("the same commit made another build: %v", res)
	}
	end := w.Wait(t, ctx, one.Build.Id)
	if end.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED || harness.FileAt(t, end.Ref, "v") != "first" {
		t.Fatalf("the build: %v", end)
	}
	if res := mustAsk("carol"); !res.Exists {
		t.Errorf("the image of the commit was not found: %v", res)
	}
	second := repo.Commit(map[string]string{"v": "second"})
	two := mustAsk("dave")
	if two.Exists || two.Attached || two.Build.Ref == one.Build.Ref || two.Build.Source.GetDockerfile().GetGit().GetCloneTarget() != second {
		t.Errorf("a new commit on the branch: %v", two)
	}
	if end := w.Wait(t, ctx, two.Build.Id); harness.FileAt(t, end.Ref, "v") != "second" {
		t.Errorf("the second image holds %q", harness.FileAt(t, end.Ref, "v"))
	}
	// A repeated request returns its build, not the commit that the branch names now.
	if res := mustAsk("alice"); res.Build.GetId() != one.Build.Id {
		t.Errorf("the first request again: %v", res)
	}
}

// Test_CLI_BuildsAGitBranch builds a branch that is not the default branch, and the next commit of
// the branch.
func Test_CLI_BuildsAGitBranch(t *testing.T) {
	w := buildkittest.Start(t, nil)
	repo := testkit.NewGitRepo(t, testkit.GitServer{})
	repo.Commit(map[string]string{"Dockerfile": "FROM " + w.Base + "\nCOPY v /v\n", "v": "of main"})
	repo.Git("branch", "-f", "other", "main")
	repo.Commit(map[string]string{"v": "new on main"})
	build := func(target string) string {
		t.Helper()
		out, errOut, status := harness.CLI(t, w.GRPC, "build", repo.URL, "--git-target", target)
		if status != 0 {
			t.Fatalf("%s: %s %s", target, out, errOut)
		}
		return harness.FileAt(t, harness.LastLine(out), "v")
	}
	if got := build("other"); got != "of main" {
		t.Errorf("the branch: %q", got)
	}
	repo.Git("branch", "-f", "other", "main")
	if got := build("other"); got != "new on main" {
		t.Errorf("its next commit: %q", got)
	}
	// A branch and a folder in the URL, as docker build takes them.
	repo.Commit(map[string]string{"sub/v": "of the folder", "sub/Second": "FROM " + w.Base + "\nCOPY v /v\n"})
	repo.Git("branch", "-f", "third", "main")
	out := harness.MustCLI(t, w.GRPC, "build", repo.URL+"#third:sub", "-f", "Second")
	if got := harness.FileAt(t, harness.LastLine(out), "v"); got != "of the folder" {
		t.Errorf("a folder of a branch: %q", got)
	}
	if _, errOut, status := harness.CLI(t, w.GRPC, "build", repo.URL, "--git-target", "nothing"); status != 2 || !strings.Contains(errOut, `no branch or tag "nothing"`) {
		t.Errorf("a branch that is not there: %d %s", status, errOut)
	}
	if _, errOut, status := harness.CLI(t, w.GRPC, "build", "ssh://git@example.com/a.git"); status != 2 || !strings.Contains(errOut, "over http and https, not ssh") {
		t.Errorf("over ssh: %d %s", status, errOut)
	}
}
