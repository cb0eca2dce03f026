//go:build faults

package operator

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/verify"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// expectViolation runs the checker on three nodes and calls harm meanwhile. The report must name
// the promise that was broken, with a message that contains shows.
func expectViolation(t *testing.T, want verify.Promise, shows string, harm func(c *harness.Cluster)) {
	t.Helper()
	reg := registrytest.Start(t, registrytest.Options{})
	c := harness.StartCluster(t, 3, reg.Addr, nil)
	harness.AwaitMembers(t, c, "the feature level is raised", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 2 })
	o := verifyOptions(t, c, reg, 15*time.Second)
	o.Patience = 20 * time.Second // lost builds do not return
	done := make(chan struct{})
	go func() {
		defer close(done)
		harm(c)
	}()
	e, err := verify.Run(t.Context(), o)
	<-done
	if err != nil {
		t.Fatal(err)
	}
	r := verify.NewReport(e)
	if r.OK {
		t.Fatalf("the checker says ok:\n%s", textOf(t, r))
	}
	t.Log("\n" + textOf(t, r))
	if !slices.ContainsFunc(r.Findings, func(f verify.Finding) bool { return f.Promise == want && strings.Contains(f.Message, shows) }) {
		t.Errorf("no finding says that %q is broken with a message that contains %q", want, shows)
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Errorf("copy %s: %v: %s", from, err, out)
	}
}

// Test_Verify_AnOldDiskCopyIsFound starts all nodes from copies of their disks that are some
// seconds old. Builds that were acknowledged since are lost.
func Test_Verify_AnOldDiskCopyIsFound(t *testing.T) {
	expectViolation(t, verify.Promise(history.Ends), "was acknowledged and never seen to end", func(c *harness.Cluster) {
		old := t.TempDir()
		<-time.After(3 * time.Second)
		for _, n := range c.Nodes { // as if the machine were off while it is copied
			n.Kill()
		}
		for _, n := range c.Nodes {
			copyTree(t, filepath.Join(n.Dir, "data"), filepath.Join(old, n.Name))
			n.Launch()
		}
		for _, n := range c.Nodes {
			n.AwaitReady()
		}
		<-time.After(4 * time.Second)
		for _, n := range c.Nodes {
			n.Kill()
		}
		for _, n := range c.Nodes {
			dir := filepath.Join(n.Dir, "data")
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
			copyTree(t, filepath.Join(old, n.Name), dir)
			n.Launch()
		}
		for _, n := range c.Nodes {
			n.AwaitReady()
		}
	})
}

// Test_Verify_ANodeOnAnOldDiskIsFound starts one node from a copy of its disk that is some seconds
// old. Builds that only this node and a second one have acknowledged since are lost while the
// second one is down: the first node and the third one, which never had them, are a majority.
func Test_Verify_ANodeOnAnOldDiskIsFound(t *testing.T) {
	expectViolation(t, verify.Promise(history.Ends), "was acknowledged and never seen to end", func(c *harness.Cluster) {
		keeps, old, missed := c.Nodes[0], c.Nodes[1], c.Nodes[2]
		copied := filepath.Join(t.TempDir(), "data")
		<-time.After(2 * time.Second)
		old.Kill() // as if the machine were off while it is copied
		copyTree(t, filepath.Join(old.Dir, "data"), copied)
		old.Run()
		missed.Kill()
		<-time.After(3 * time.Second)
		keeps.Kill()
		old.Kill()
		dir := filepath.Join(old.Dir, "data")
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		copyTree(t, copied, dir)
		old.Launch()
		missed.Launch()
		old.AwaitReady()
		missed.AwaitReady()
		keeps.Run()
	})
}

// Test_Verify_ACutLogIsFound cuts all segments of logs on all nodes.
func Test_Verify_ACutLogIsFound(t *testing.T) {
	expectViolation(t, verify.LogsOnlyGrow, "the log of attempt", func(c *harness.Cluster) {
		<-time.After(5 * time.Second)
		for _, n := range c.Nodes {
			n.Kill()
		}
		cut := 0
		for _, n := range c.Nodes {
			files, err := filepath.Glob(filepath.Join(n.Dir, "data", "logs", "*.log"))
			if err != nil {
				t.Error(err)
			}
			for _, f := range files {
				if err := os.Truncate(f, 60); err != nil { // keeps the header and a part of the first record
					t.Error(err)
				}
				cut++
			}
			n.Launch()
		}
		if cut == 0 {
			t.Error("there is no segment")
		}
		for _, n := range c.Nodes {
			n.AwaitReady()
		}
	})
}
