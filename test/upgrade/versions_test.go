//go:build faults

package upgrade

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
	"github.com/image-builder-ha/image-builder/tracing/tracetest"
)

// release compiles a former version from the commit that the file releases names,
// and returns the path of the binary.
func release(t *testing.T, version string) string {
	t.Helper()
	raw, err := os.ReadFile("releases")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(version) + ` ([0-9a-f]+) `).FindStringSubmatch(string(raw))
	if m == nil {
		t.Fatalf("upgrade/releases names no commit of %s", version)
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

// Test_Versions_Mixed upgrades a cluster of the version before this one, and takes
// the upgrade back on all nodes. With SOAK both versions run for ten minutes beside
// each other.
func Test_Versions_Mixed(t *testing.T) {
	mixVersions(t, "0.3.0", 3, time.Duration(testkit.InSoak(600, 0))*time.Second)
}

// Test_Versions_MixedOlder upgrades a cluster of an older version with a lower
// feature level, and takes the upgrade back on one node.
func Test_Versions_MixedOlder(t *testing.T) { mixVersions(t, "0.2.0", 1, 0) }

// mixVersions replaces the nodes of a cluster of a former version under load, one
// after the other, by this version, which keeps the cluster's feature level by
// its configuration. It then takes the first nodes back to the former version, and
// replaces all once more, without that configuration: no call of the client
// package fails. If this version has a higher feature level, then the cluster
// raises its level, and the former version refuses to start. A level without
// traces in the state ends a trace with the call: a node of the former version
// would lose the rest. Two nodes of this version and one of the former one run
// beside each other for the time mixed, and no states are found to differ.
func mixVersions(t *testing.T, version string, takenBack int, mixed time.Duration) {
	reg := registrytest.Start(t, registrytest.Options{})
	refs := harness.PushImages(t, reg, 50)
	old := release(t, version)
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
	replace := func(program string, hold any, nodes ...*harness.Node) {
		var tracing any
		if program == "" { // 0.2.0 does not know the key
			tracing = map[string]any{"endpoint": collector.Addr}
		}
		for _, n := range nodes {
			done := l.Builds.Load()
			testkit.Eventually(t, time.Minute, "builds go through", func() bool { return l.Builds.Load() > done+10 })
			n.Stop()
			n.Program = program
			n.Override(harness.Config{"cluster": map[string]any{"featureLevel": hold}, "tracing": tracing})
			n.Run()
			harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
		}
	}
	replace("", level, c.Nodes[:2]...)
	awaitCompared(t, c, c.Nodes[0])
	if mixed > 0 {
		runMixed(t, c, mixed)
	}
	replace("", level, c.Nodes[2])
	testkit.Eventually(t, time.Minute, "calls are traced", func() bool { return traced("imagebuilder.v1.ImageBuilder/BuildImage") })
	if level < 3 && traced("attempt") {
		t.Errorf("the state keeps traces at the feature level of %s", version)
	}
	replace(old, nil, c.Nodes[:takenBack]...)
	replace("", nil, c.Nodes...)
	harness.AwaitMembers(t, c, "the feature level is this version's", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel == builds.FeatureLevel })
	testkit.Eventually(t, time.Minute, "attempts are traced", func() bool { return traced("attempt") })
	if level < builds.FeatureLevel {
		refusesData(t, c.Nodes[0], old)
	}
	awaitCompared(t, c, c.Nodes[1])
	l.End()
	harness.AwaitSameBuilds(t, c)
	for _, n := range c.Nodes {
		if log := n.Log(); strings.Contains(log, "replicated state of") || strings.Contains(log, "replicated states of") {
			t.Errorf("%s has found that states differ", n.Name)
		}
	}
}

// runMixed lets the first two nodes, of this version, and a third one of another version run for a
// while. It checks that states are compared all the time, and that no difference is reported.
func runMixed(t *testing.T, c *harness.Cluster, long time.Duration) {
	t.Helper()
	metric := func(name string) (largest float64) {
		for _, n := range c.Nodes[:2] {
			body, _ := n.Get("http://" + n.Metrics + "/metrics")
			if m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(body); m != nil {
				v, err := strconv.ParseFloat(m[1], 64)
				if err != nil {
					t.Fatal(err)
				}
				largest = max(largest, v)
			}
		}
		return largest
	}
	first, compared := 0.0, 0
	for begin := time.Now(); time.Since(begin) < long; {
		before := metric("image_builder_state_compared_index")
		if first == 0 {
			first = before
		}
		testkit.Eventually(t, 3*time.Minute, "states are compared again", func() bool { return metric("image_builder_state_compared_index") > before })
		compared++
		if n := metric("image_builder_state_divergences_total"); n != 0 {
			t.Fatalf("after %s %v states are reported to differ", time.Since(begin).Round(time.Second), n)
		}
	}
	t.Logf("states were compared %d times in %s, from index %.0f to %.0f: none differed", compared, long, first, metric("image_builder_state_compared_index"))
}

// awaitCompared waits until a node leads and has compared the states of two nodes of this version.
func awaitCompared(t *testing.T, c *harness.Cluster, lead *harness.Node) {
	t.Helper()
	testkit.Eventually(t, 2*time.Minute, lead.Name+" leads and compares states", func() bool {
		body, _ := lead.Get("http://" + lead.Metrics + "/metrics")
		m := regexp.MustCompile(`(?m)^image_builder_state_compared_index (\S+)$`).FindStringSubmatch(body)
		if m != nil && m[1] != "0" {
			return true
		}
		if c.Leader() != lead {
			_, _ = lead.Operator().TransferLeadership(t.Context(), &imagebuilderv1.TransferLeadershipRequest{To: lead.Name})
		}
		return false
	})
}

// refusesData asserts that a former version does not start on the data of a node
// of a higher feature level, and says why. The node runs this version again then.
func refusesData(t *testing.T, n *harness.Node, old string) {
	t.Helper()
	n.Stop()
	logged := len(n.Log())
	n.Program = old
	n.Override(harness.Config{"cluster": map[string]any{"featureLevel": nil}, "tracing": nil})
	n.Launch()
	select {
	case <-n.Exited():
	case <-time.After(time.Minute):
		t.Fatal("the former version runs on the data of this version")
	}
	if n.ExitCode() == 0 || !strings.Contains(n.Log()[logged:], "feature level") {
		t.Errorf("the former version ended with status %d and does not say why", n.ExitCode())
	}
	n.Program = ""
	n.Run()
}
