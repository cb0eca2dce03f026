package test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Test_Logs_Damaged damages one copy of a build's log, which all nodes then
// read from the other one, and then both: all nodes say so by DataLoss, which
// the alert ImageBuilderErrors counts, and ask nobody to try again.
func Test_Logs_Damaged(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	c := harness.StartCluster(t, 3, reg.Addr, harness.Config{"log": map[string]any{"level": "info"}})
	ctx := timeout(t, 2*time.Minute)
	res, err := c.Nodes[0].Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{Requester: "r", Source: harness.RefSource(reg.Addr + "/team/app:1")})
	if err != nil {
		t.Fatal(err)
	}
	id := res.Build.Id
	c.Nodes[0].Wait(t, ctx, id)
	whole, err := c.Nodes[0].ReadLog(ctx, id, 1)
	if err != nil || whole == "" {
		t.Fatalf("the log is %q, %v", whole, err)
	}
	damaged := 0
	for _, n := range c.Nodes {
		files, err := filepath.Glob(filepath.Join(n.Dir, "data", "logs", id+"*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 {
			continue
		}
		n.Stop()
		for _, f := range files {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			copy(raw, "damaged, damaged")
			if err := os.WriteFile(f, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n.Run()
		damaged++
		for _, by := range c.Nodes {
			got, err := harness.Persist(ctx, func(context.Context) (string, error) { return by.ReadLog(ctx, id, 1) })
			switch {
			case damaged == 1 && (err != nil || got != whole):
				t.Errorf("by node %s, with one damaged copy: %q, %v", by.Name, got, err)
			case damaged == 2 && (status.Code(err) != codes.DataLoss || !strings.Contains(err.Error(), "damaged")):
				t.Errorf("by node %s, with two damaged copies: %q, %v", by.Name, got, err)
			}
		}
	}
	if damaged != 2 {
		t.Errorf("%d nodes had a copy", damaged)
	}
}
