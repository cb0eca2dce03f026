//go:build faults

package logs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// smallDisk mounts a small file system for the logs of a node.
func smallDisk(t *testing.T, n *harness.Node, size string) (path string) {
	t.Helper()
	path = filepath.Join(n.Dir, "data", "logs")
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

// Test_Logs_DiskFullOnOneNode fills the disk for the logs of one node while builds run there. The
// builds continue on other nodes, and the failed attempts do not count. Members and metrics report
// the node. It gets builds again once there is room.
func Test_Logs_DiskFullOnOneNode(t *testing.T) {
	w := prepareLogCluster(t, 3, script(16, "0.1"), false, nil)
	small := w.Nodes[1]
	disk := smallDisk(t, small, "8m")
	w.start()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	ids := w.request(ctx, 9)
	var moved int
	for _, id := range ids {
		b := w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return b.EndedAt != nil })
		if b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			t.Errorf("build %s is %s: %s", id, b.Phase, b.Message)
		}
		for _, a := range b.Attempts {
			if a.Counted {
				t.Errorf("build %s attempt %d on node %s counts: %s", id, a.Number, a.Owner, a.Message)
			}
			if a.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
				moved++
				if a.Owner != small.Name || !strings.Contains(a.Message, "cannot write logs") {
					t.Errorf("build %s attempt %d on node %s failed: %s", id, a.Number, a.Owner, a.Message)
				}
			}
		}
	}
	if moved == 0 {
		t.Error("no attempt ended with the full disk")
	}
	trouble := func() (text string, shown bool) {
		res, err := w.Nodes[0].Members(ctx, false)
		for _, m := range res.GetMembers() {
			if m.Name == small.Name {
				text = m.Trouble
			}
		}
		body, _ := small.Get("http://" + small.Metrics + "/metrics")
		return text, err == nil && strings.Contains(body, "\nimage_builder_log_trouble 1\n")
	}
	testkit.Eventually(t, 20*time.Second, "members and metrics report the full disk", func() bool {
		text, shown := trouble()
		return shown && strings.Contains(text, "disk under the logs is full")
	})
	for _, id := range w.request(ctx, 3) {
		b := w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return b.EndedAt != nil })
		if len(b.Attempts) != 1 || b.Attempts[0].Owner == small.Name {
			t.Errorf("a later build ran %d times, first on node %s", len(b.Attempts), b.Attempts[0].Owner)
		}
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=256m"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the node is well again", func() bool {
		text, shown := trouble()
		return !shown && text == ""
	})
	back := false
	for _, id := range w.request(ctx, 6) {
		b := w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return b.EndedAt != nil })
		back = back || b.Attempts[0].Owner == small.Name
	}
	if !back {
		t.Error("the node gets no builds although there is room again")
	}
	t.Logf("%d attempts moved", moved)
}

// request requests n builds of different images at once.
func (w *logCluster) request(ctx context.Context, n int) (ids []string) {
	w.t.Helper()
	for range n {
		name := "team/" + uuid.NewString() + ":1"
		w.reg.Push(w.t, name, registrytest.RandomImage(w.t, 1, 1<<10))
		res, err := w.Nodes[0].Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
			RequestId: uuid.NewString(), Requester: "r", Source: harness.RefSource(w.reg.Addr + "/" + name),
		})
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, res.Build.Id)
	}
	return ids
}
