//go:build faults

package upgrade

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
	"github.com/image-builder-ha/image-builder/tracing/tracetest"
)

// release compiles a former version from the commit in the changelog, and returns the path of the
// binary.
func release(t *testing.T, version string) string {
	t.Helper()
	raw, err := os.ReadFile(testkit.File("CHANGELOG.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^## ` + regexp.QuoteMeta(version) + ` \(commit ([0-9a-f]+)\)`).FindStringSubmatch(string(raw))
	if m == nil {
		t.Fatalf("the changelog names no commit of %s", version)
	}
	git := func(args ...string) error {
		out, err := exec.Command("git", args...).CombinedOutput()
		if err != nil {
			t.Logf("git %s: %s", strings.Join(args, " "), out)
		}
		return err
	}
	if git("cat-file", "-e", m[1]+"^{commit}") != nil {
		t.Skipf("this checkout has no history with the commit of %s", version)
	}
	tree, program := filepath.Join(t.TempDir(), "tree"), filepath.Join(t.TempDir(), "image-builder")
	if err := git("worktree", "add", "--detach", tree, m[1]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = git("worktree", "remove", "--force", tree) })
	build := exec.Command("go", "build", "-o", program, "./cmd/image-builder")
	build.Dir = tree
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the setting of the Makefile, so that compiled modules are shared
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compile %s: %v\n%s", version, err, out)
	}
	return program
}

// Test_Versions_Single runs 0.1.0, kills it during builds, and starts this version with its data.
// All builds succeed. After that, 0.1.0 refuses the data.
func Test_Versions_Single(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	refs := harness.PushImages(t, reg, 20)
	n := harness.New(t, t.TempDir(), reg.Addr, harness.Config{"ready": nil, "shutdown": map[string]any{"drain": nil}})
	n.Program = release(t, "0.1.0")
	n.Run()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	request := func(ref string) string {
		res, err := harness.Persist(ctx, func(ctx context.Context) (*imagebuilderv1.BuildImageResponse, error) {
			return n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{RequestId: ref, Source: harness.RefSource(ref), Force: true, Requester: "r"})
		})
		if err != nil {
			t.Fatal(err)
		}
		return res.Build.Id
	}
	var ids []string
	for _, ref := range refs[:10] {
		id := request(ref)
		ids = append(ids, id)
		n.Wait(t, ctx, id)
	}
	log, err := n.ReadLog(ctx, ids[0], 1)
	if err != nil || log == "" {
		t.Fatalf("log %q, %v", log, err)
	}
	for _, ref := range refs[10:] {
		ids = append(ids, request(ref))
	}
	n.Kill()
	old := n.Program
	n.Program = ""
	n.Run()
	for i, id := range ids {
		if b := n.Wait(t, ctx, id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			t.Errorf("build %d is %s: %s", i, b.GetPhase(), b.GetMessage())
		}
	}
	if got, err := n.ReadLog(ctx, ids[0], 1); err != nil || got != log {
		t.Errorf("the log is %q, %v, was %q", got, err, log)
	}
	if again := request(refs[0]); again != ids[0] {
		t.Errorf("the same request id got build %s, had %s", again, ids[0])
	}
	testkit.Eventually(t, 30*time.Second, "the feature level is raised", func() bool {
		res, err := n.Members(ctx, false)
		return err == nil && res.FeatureLevel >= 2
	})
	n.Stop()
	n.Program = old
	n.Launch()
	select {
	case <-n.Exited():
	case <-ctx.Done():
		t.Fatal("0.1.0 runs on the data of this version")
	}
	if tail := n.Log(); n.ExitCode() == 0 || !strings.Contains(tail, "feature level") {
		t.Errorf("0.1.0 ended with status %d, and its log does not name the feature level", n.ExitCode())
	}
}

// Test_Versions_Mixed upgrades the nodes of a cluster of 0.2.0 to this version under load, one
// after the other, with the configured feature level of 0.2.0, and then downgrades all of them. No
// call of the client package fails. After a second upgrade without a configured level, the cluster
// raises its feature level, and 0.2.0 refuses to start. Before that, traces have calls but no
// attempts, because the state of 0.2.0 cannot keep them.
func Test_Versions_Mixed(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	refs := harness.PushImages(t, reg, 50)
	old := release(t, "0.2.0")
	c := harness.NewCluster(t, 3, reg.Addr, harness.Config{"log": map[string]any{"level": "info"}})
	for _, n := range c.Nodes {
		n.Program = old
		n.Launch()
	}
	for _, n := range c.Nodes {
		n.AwaitReady()
	}
	level := harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 && r.FeatureLevel >= 2 }).FeatureLevel
	l := harness.StartCallers(t, c, refs, 8, 10)
	collector := tracetest.Start(t)
	traced := func(name string) bool {
		return slices.ContainsFunc(collector.Spans(""), func(s tracetest.Span) bool { return s.Name == name })
	}
	replace := func(program string, hold any) {
		var tracing any
		if program == "" { // 0.2.0 does not know the key
			tracing = map[string]any{"endpoint": collector.Addr}
		}
		for _, n := range c.Nodes {
			done := l.Builds.Load()
			testkit.Eventually(t, time.Minute, "builds go through", func() bool { return l.Builds.Load() > done+10 })
			n.Stop()
			n.Program = program
			n.Override(harness.Config{"cluster": map[string]any{"featureLevel": hold}, "tracing": tracing})
			n.Run()
			harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
		}
	}
	replace("", level)
	testkit.Eventually(t, time.Minute, "calls are traced", func() bool { return traced("imagebuilder.v1.ImageBuilder/BuildImage") })
	if traced("attempt") {
		t.Error("the state keeps traces at the feature level of 0.2.0")
	}
	replace(old, nil)
	replace("", nil)
	harness.AwaitMembers(t, c, "the feature level is raised", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel > level })
	testkit.Eventually(t, time.Minute, "attempts are traced", func() bool { return traced("attempt") })
	back := c.Nodes[0]
	back.Stop()
	back.Program = old
	back.Override(harness.Config{"cluster": map[string]any{"featureLevel": nil}, "tracing": nil})
	back.Launch()
	select {
	case <-back.Exited():
	case <-time.After(time.Minute):
		t.Fatal("0.2.0 runs on the data of this version")
	}
	if back.ExitCode() == 0 || !strings.Contains(back.Log(), "feature level") {
		t.Errorf("0.2.0 ended with status %d, and its log does not name the feature level", back.ExitCode())
	}
	back.Program = ""
	back.Run()
	l.End()
	harness.AwaitSameBuilds(t, c)
}
