package logs

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// oneLog is a cluster of three nodes with one build, whose log has copies on two of them.
type oneLog struct {
	*harness.Cluster
	t     *testing.T
	ctx   context.Context
	id    string
	whole string
}

func startOneLog(t *testing.T) *oneLog {
	t.Helper()
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	c := &oneLog{t: t, Cluster: harness.StartCluster(t, 3, reg.Addr, harness.Config{"log": map[string]any{"level": "info"}})}
	c.ctx = testkit.Context(t, 2*time.Minute)
	harness.AwaitMembers(t, c.Cluster, "the feature level is raised", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 2 })
	res, err := c.Nodes[0].Native.BuildImage(c.ctx, &imagebuilderv1.BuildImageRequest{Requester: "r", Source: harness.RefSource(reg.Addr + "/team/app:1")})
	if err != nil {
		t.Fatal(err)
	}
	c.id = res.Build.Id
	c.Nodes[0].Wait(t, c.ctx, c.id)
	if c.whole, err = c.Nodes[0].ReadLog(c.ctx, c.id, 1); err != nil || c.whole == "" {
		t.Fatalf("the log is %q, %v", c.whole, err)
	}
	c.awaitTwoCopies("at the start")
	return c
}

// copies returns the files of the log, by node.
func (c *oneLog) copies() map[*harness.Node]string {
	c.t.Helper()
	out := map[*harness.Node]string{}
	for _, n := range c.Nodes {
		files, err := filepath.Glob(filepath.Join(n.Dir, "data", "logs", c.id+"*"))
		if err != nil || len(files) > 1 {
			c.t.Fatal(files, err)
		}
		if len(files) == 1 {
			out[n] = files[0]
		}
	}
	return out
}

// damage overwrites some bytes of a file, from the byte at on.
func (c *oneLog) damage(file string, at int) {
	c.t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	copy(raw[at:], "damaged, damaged")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// read reads the log through each node.
func (c *oneLog) read(check func(by, got string, err error)) {
	for _, n := range c.Nodes {
		got, err := harness.Persist(c.ctx, func(context.Context) (string, error) { return n.ReadLog(c.ctx, c.id, 1) })
		check(n.Name, got, err)
	}
}

// awaitTwoCopies waits until the log has two undamaged copies.
func (c *oneLog) awaitTwoCopies(when string) {
	c.t.Helper()
	testkit.Eventually(c.t, time.Minute, "the log has two sound copies "+when, func() bool {
		before := c.committedCopies()
		var sound []string
		for n, file := range c.copies() {
			raw, err := os.ReadFile(file)
			if err == nil && !strings.Contains(string(raw), "damaged, damaged") && strings.Contains(string(raw), c.whole[:10]) {
				sound = append(sound, n.Name)
			}
		}
		slices.Sort(sound)
		// A file that is being copied does not count until the set of copies contains it.
		return len(sound) == 2 && slices.Equal(sound, before) && slices.Equal(sound, c.committedCopies())
	})
}

// committedCopies returns the nodes of the set of copies, sorted.
func (c *oneLog) committedCopies() (nodes []string) {
	c.t.Helper()
	b := c.Nodes[0].Wait(c.t, c.ctx, c.id)
	if b == nil {
		c.t.FailNow()
	}
	for _, l := range b.Attempts[0].Log.Copies {
		nodes = append(nodes, l.Node)
	}
	slices.Sort(nodes)
	return nodes
}

// Test_Logs_DamagedOnAllNodes damages both copies of a log. All nodes return DataLoss, which the
// alert ImageBuilderErrors counts and which no client retries.
func Test_Logs_DamagedOnAllNodes(t *testing.T) {
	c := startOneLog(t)
	files := c.copies()
	for n, file := range files {
		n.Stop()
		c.damage(file, 0)
	}
	for n := range files {
		n.Launch()
	}
	c.read(func(by, got string, err error) {
		if status.Code(err) != codes.DataLoss || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("by node %s: %q, %v", by, got, err)
		}
	})
	if n := len(c.Nodes[0].Wait(t, c.ctx, c.id).Attempts[0].Log.Copies); n != 2 {
		t.Errorf("%d copies are left of an unreadable log", n)
	}
}

// Test_Logs_DamageIsRepaired damages the copies of a log one after the other, even while the node
// runs and has read its copy. All nodes always return the whole log, and soon it has two undamaged
// copies again.
func Test_Logs_DamageIsRepaired(t *testing.T) {
	c := startOneLog(t)
	for round, harm := range []struct {
		what string
		do   func(n *harness.Node, file string)
	}{
		{"header, while the node is down", func(n *harness.Node, file string) { n.Stop(); c.damage(file, 0); n.Run() }},
		{"output, while the node runs", func(_ *harness.Node, file string) { c.damage(file, 60) }},
		{"file removed, while the node runs", func(_ *harness.Node, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}},
		{"file removed, while the node is down", func(n *harness.Node, file string) {
			n.Stop()
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			n.Run()
		}},
	} {
		files := c.copies()
		nodes := slices.SortedFunc(maps.Keys(files), func(a, b *harness.Node) int { return strings.Compare(a.Name, b.Name) })
		n := nodes[round%len(nodes)]
		harm.do(n, files[n])
		c.read(func(by, got string, err error) {
			if err != nil || got != c.whole {
				t.Errorf("%s of node %s: by node %s %q, %v", harm.what, n.Name, by, got, err)
			}
		})
		c.awaitTwoCopies(fmt.Sprintf("after round %d (%s)", round, harm.what))
	}
}
