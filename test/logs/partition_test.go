//go:build faults

package logs

import (
	"context"
	"slices"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/netns"
)

// Test_Logs_OwnerCutOff cuts the owner off from the other nodes while one reader stays connected to
// the owner. The bytes that this reader saw before the cut stay true, and after the partition it
// sees the rest.
func Test_Logs_OwnerCutOff(t *testing.T) {
	for _, survives := range []bool{false, true} {
		t.Run(map[bool]string{false: "retried", true: "adopted"}[survives], func(t *testing.T) {
			w := &logCluster{t: t, dir: t.TempDir()}
			t.Setenv("IMAGE_BUILDER_TEST_RUNTIME", w.dir)
			t.Setenv("IMAGE_BUILDER_TEST_SCRIPT", script(24, "0.4"))
			t.Setenv("IMAGE_BUILDER_TEST_SURVIVES", map[bool]string{true: "1"}[survives])
			a := netns.StartCluster(t, 3)
			w.Cluster, w.base = a.Cluster, a.Refs[0]
			w.levelRaised()
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			b := w.build(ctx)
			owner := w.node(b.Attempts[0].Owner)
			inside := &reader{w: w, id: b.Id, at: slices.Index(w.Nodes, owner), stays: true}
			ended := make(chan error, 1)
			go func() { ended <- inside.follow(ctx) }()
			readers, wait := w.startReaders(ctx, b.Id, 6)
			w.awaitBytes(append(readers, inside), 4*part)
			a.Net.Part([]*netns.Host{a.Host(owner)}, a.Net.Others(a.Host(owner)))
			w.awaitOn(ctx, owner, b.Id)
			cut := inside.total.Load()
			outside := w.Others(owner)[0]
			beyond := &reader{w: w, id: b.Id, at: slices.Index(w.Nodes, outside), stays: true}
			follow, stop := context.WithCancel(ctx)
			seen := make(chan error, 1)
			go func() { seen <- beyond.follow(follow) }()
			w.awaitBytes([]*reader{beyond}, cut+4*part) // bytes that the inner reader cannot see
			stop()
			<-seen
			if n := inside.total.Load(); n != cut {
				t.Errorf("the reader on the owner's side saw %d bytes more without the others", n-cut)
			}
			a.Net.Heal()
			wait()
			if err := <-ended; err != nil {
				t.Errorf("the reader on the owner's side: %v", err)
			}
			w.checkSame(ctx, b.Id, append(readers, inside))
			if n := w.starts(); survives && n != 1 || !survives && n != 2 {
				t.Errorf("%d workloads were started", n)
			}
			if s := w.await(ctx, b.Id, func(*imagebuilderv1.Build) bool { return true }); survives && len(s.Attempts) != 1 {
				t.Errorf("%d attempts", len(s.Attempts))
			}
		})
	}
}
