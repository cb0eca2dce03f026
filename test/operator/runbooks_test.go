package operator

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
	"github.com/image-builder-ha/image-builder/verify"
)

// runbook returns the commands in the code blocks of docs/runbooks.md, by the title of the section.
func runbook(t *testing.T) map[string][]string {
	t.Helper()
	raw, err := os.ReadFile(testkit.File("docs/runbooks.md"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	title, code := "", false
	for _, line := range strings.Split(string(raw), "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			code = !code
		case strings.HasPrefix(line, "## "):
			title = strings.TrimPrefix(line, "## ")
		case code && strings.HasPrefix(line, "image-builder "):
			command, _, _ := strings.Cut(line, "#")
			out[title] = append(out[title], strings.TrimSpace(strings.TrimPrefix(command, "image-builder ")))
		}
	}
	return out
}

// Test_Runbooks runs the commands of docs/runbooks.md on a cluster. The command verify has used the
// cluster before, and uses it again afterwards.
func Test_Runbooks(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	c := harness.StartCluster(t, 3, reg.Addr, harness.Config{"log": map[string]any{"level": "info"}})
	harness.AwaitMembers(t, c, "the feature level is raised", func(r *imagebuilderv1.MembersResponse) bool {
		return r.FeatureLevel >= 2 && r.FailureTolerance == 1
	})
	use := func(d time.Duration) {
		t.Helper()
		e, err := verify.Run(t.Context(), verifyOptions(t, c, reg, d))
		if err != nil {
			t.Fatal(err)
		}
		if r := reportOf(t, e); !r.OK {
			t.Errorf("verify:\n%s", textOf(t, r))
		}
	}
	use(3 * time.Second)
	book, ran := runbook(t), 0
	file := filepath.Join(t.TempDir(), "backup.ib")
	// do runs the commands of a section. It calls before with the index of each command first.
	do := func(title string, n *harness.Node, with map[string]string, before func(i int)) {
		t.Helper()
		if len(book[title]) == 0 {
			t.Fatalf("docs/runbooks.md has no commands under %q; there are %v", title, book)
		}
		for i, command := range book[title] {
			before(i)
			args := strings.Fields(command)
			for j := range args {
				if v := with[args[j]]; v != "" {
					args[j] = v
				}
			}
			out, errOut, status := harness.CLI(t, n.Socket(), args...)
			if status != 0 {
				t.Fatalf("%s: %s: status %d: %s%s", title, strings.Join(args, " "), status, out, errOut)
			}
			ran++
		}
		delete(book, title)
	}
	nothing := func(int) {}

	do("Backup and restore", c.Nodes[0], map[string]string{"backup.ib": file}, nothing)
	do("Keys", c.Nodes[1], map[string]string{"DIR": filepath.Join(c.Dir, "certs"), "CLUSTER": harness.ClusterName, "NODE": "n0"}, nothing)

	busy := c.Leader()
	do("A node is worked on", busy, map[string]string{"NODE": busy.Name}, nothing)

	// The disk of a node is replaced, which takes no command.
	lost := c.Others(c.Leader())[0]
	lost.Kill()
	if err := os.RemoveAll(filepath.Join(lost.Dir, "data")); err != nil {
		t.Fatal(err)
	}
	lost.Run()
	harness.AwaitMembers(t, c, "the node with the new disk votes, the old one is gone", func(r *imagebuilderv1.MembersResponse) bool {
		return len(r.Members) == 3 && harness.Voters(r) == 3 && r.FailureTolerance == 1
	})

	leaves := c.Others(c.Leader())[1]
	do("A node goes for good", c.Leader(), map[string]string{"NODE": leaves.Name}, func(i int) {
		if i == 1 {
			leaves.Stop()
		}
	})
	harness.AwaitMembers(t, c, "two nodes are left", func(r *imagebuilderv1.MembersResponse) bool { return len(r.Members) == 2 })
	if err := os.RemoveAll(filepath.Join(leaves.Dir, "data")); err != nil {
		t.Fatal(err)
	}
	leaves.Run() // as a new node
	harness.AwaitMembers(t, c, "three nodes vote", func(r *imagebuilderv1.MembersResponse) bool { return harness.Voters(r) == 3 && r.FailureTolerance == 1 })
	use(3 * time.Second)

	last := c.Leader()
	for _, n := range c.Others(last) {
		n.Kill()
		if err := os.RemoveAll(filepath.Join(n.Dir, "data")); err != nil {
			t.Fatal(err)
		}
	}
	last.Kill()
	do("A majority of the voters is lost for good", last, map[string]string{"config.yaml": filepath.Join(last.Dir, "config.json")}, nothing)
	last.Run()
	for _, n := range c.Nodes {
		if n != last {
			n.Run()
		}
	}
	harness.AwaitMembers(t, c, "three nodes vote again", func(r *imagebuilderv1.MembersResponse) bool { return harness.Voters(r) == 3 && r.FailureTolerance == 1 })
	use(3 * time.Second)
	harness.AwaitSameBuilds(t, c)
	if len(book) > 0 || ran < 8 {
		t.Errorf("%d commands ran; these did not: %v", ran, book)
	}
}
