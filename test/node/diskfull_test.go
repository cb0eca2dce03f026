//go:build faults

package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_DiskFull fills the disk under the logs and Raft. Requests fail with the reason and no
// acknowledged build is lost. Once there is room again, the node continues without a restart.
func Test_DiskFull(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1g"); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	reg := registrytest.Start(t, registrytest.Options{})
	n := harness.New(t, t.TempDir(), reg.Addr, harness.Config{"dataDir": filepath.Join(disk, "data")})
	n.Run()
	ctx := testkit.Context(t, 3*time.Minute)
	ask := func(i int) (*imagebuilderv1.BuildImageResponse, error) {
		reg.Push(t, fmt.Sprint("team/app:", i), registrytest.RandomImage(t, 1, 1<<10))
		return n.Native.BuildImage(testkit.Context(t, 5*time.Second), &imagebuilderv1.BuildImageRequest{
			RequestId: fmt.Sprint("q", i), Requester: "alice", Labels: map[string]string{"pad": strings.Repeat("x", 200)},
			Source: harness.RefSource(fmt.Sprint(reg.Addr, "/team/app:", i)),
		})
	}
	first, err := ask(0)
	if err != nil {
		t.Fatal(err)
	}
	n.Wait(t, ctx, first.Build.Id)
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	var acked []string
	failed, named := 0, false
	for i := 1; i < 10; i++ {
		res, err := ask(i)
		if err != nil {
			failed++
			if c := status.Code(err); c != codes.Unavailable && c != codes.DeadlineExceeded {
				t.Errorf("on a full disk: %v", err)
			}
			named = named || strings.Contains(err.Error(), "nearly full")
			continue
		}
		acked = append(acked, res.Build.Id)
	}
	if !named {
		t.Error("no refusal names the full disk")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for _, id := range append(acked, first.Build.Id) {
		if b := n.Wait(t, ctx, id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			t.Errorf("build %s is %s: %s", id, b.GetPhase(), b.GetMessage())
		}
	}
	if res, err := harness.Persist(ctx, func(_ context.Context) (*imagebuilderv1.BuildImageResponse, error) { return ask(100) }); err != nil || n.Wait(t, ctx, res.Build.Id).GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		t.Errorf("once there is room again: %v, %v", res, err)
	}
	if !strings.Contains(n.Log(), "nearly full") {
		t.Error("the node's log does not name the full disk")
	}
	t.Logf("%d acknowledged, %d refused on the full disk", len(acked), failed)
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for size := len(block); size > 0; {
		if _, err := f.Write(block[:size]); err != nil {
			size /= 2
		}
	}
}
