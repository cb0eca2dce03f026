//go:build faults

package logs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Logs_Drained drains a node that owns live logs and holds copies of others. All of them move
// to other nodes while they are written and read. Then the test kills the owner of a log whose copy
// was on the drained node.
func Test_Logs_Drained(t *testing.T) {
	more := filepath.Join(t.TempDir(), "more") // removed with the folder, if the test fails
	if err := os.WriteFile(more, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := newLogCluster(t, 4, fmt.Sprintf(`i=0; while [ -e %s ]; do i=$((i+1)); seq -f "part $i line %%050.0f" 1 300; sleep 0.2; done`, more), true, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	refs := harness.PushImages(t, w.reg, 8)
	all := map[string][]*reader{}
	var waits []func()
	for _, ref := range refs {
		w.base = ref
		b := w.build(ctx)
		readers, wait := w.startReaders(ctx, b.Id, 4)
		all[b.Id], waits = readers, append(waits, wait)
	}
	for _, readers := range all {
		w.awaitBytes(readers, 64<<10)
	}
	drained, watched := w.nodeToDrain(ctx, all)
	if out, text, code := harness.CLI(t, w.node(drained).Socket(), "cluster", "drain", drained); code != 0 {
		t.Fatal(out, text)
	}
	for id := range all {
		w.await(ctx, id, func(b *imagebuilderv1.Build) bool {
			log := b.Attempts[0].Log
			return b.Attempts[0].Owner != drained && len(log.Copies) == 2 && !holdsLog(log, drained)
		})
	}
	for id, readers := range all { // readers still receive output
		w.awaitBytes(readers, readers[0].total.Load()+64<<10)
		w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return !holdsLog(b.Attempts[0].Log, drained) })
	}
	owner := w.node(w.await(ctx, watched, func(*imagebuilderv1.Build) bool { return true }).Attempts[0].Owner)
	owner.Kill()
	w.awaitOn(ctx, owner, watched)
	w.awaitBytes(all[watched], all[watched][0].total.Load()+64<<10)
	owner.Run()
	if err := os.Remove(more); err != nil {
		t.Fatal(err)
	}
	for _, wait := range waits {
		wait()
	}
	for id, readers := range all {
		b := w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return b.EndedAt != nil })
		if len(b.Attempts) != 1 || holdsLog(b.Attempts[0].Log, drained) {
			t.Errorf("build %s: %d attempts, the log of the first is on %v", id, len(b.Attempts), b.Attempts[0].Log.Copies)
		}
		w.checkSame(ctx, id, readers)
	}
	if n := w.starts(); n != len(refs) {
		t.Errorf("%d workloads were started for %d builds", n, len(refs))
	}
}

// nodeToDrain returns a node that owns a live log and holds the copy of another one, and the build
// of the copy.
func (w *logCluster) nodeToDrain(ctx context.Context, builds map[string][]*reader) (node, build string) {
	w.t.Helper()
	owns, holds := map[string]bool{}, map[string]string{}
	for id := range builds {
		a := w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return len(b.Attempts[0].Log.Copies) == 2 }).Attempts[0]
		owns[a.Owner] = true
		for _, c := range a.Log.Copies {
			if c.Node != a.Owner {
				holds[c.Node] = id
			}
		}
	}
	for name, id := range holds {
		if owns[name] {
			return name, id
		}
	}
	w.t.Fatalf("no node owns a log and holds the copy of another: owners %v, holders %v", owns, holds)
	return "", ""
}

func holdsLog(log *imagebuilderv1.AttemptLog, node string) bool {
	for _, c := range log.GetCopies() {
		if c.Node == node {
			return true
		}
	}
	return false
}

// Test_Logs_DrainedTogether drains two of four nodes at once after all builds have ended. Logs that
// only these two nodes hold move to the others, and are read there after the two nodes are gone.
func Test_Logs_DrainedTogether(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	c := harness.StartCluster(t, 4, reg.Addr, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	harness.AwaitMembers(t, c, "the feature level is raised", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 2 })
	var ids []string
	logs := map[string]string{}
	for i, ref := range harness.PushImages(t, reg, 40) {
		res, err := c.Nodes[i%4].Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{RequestId: fmt.Sprint(i), Requester: "test", Source: harness.RefSource(ref)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, res.Build.Id)
	}
	for _, id := range ids {
		if b := c.Nodes[0].Wait(t, ctx, id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			t.Fatalf("build %s: %v", id, b)
		}
		logs[id], _ = c.Nodes[0].ReadLog(ctx, id, 0)
	}
	stay, leave := c.Nodes[:2], c.Nodes[2:]
	copies := func(id string) (on []string) {
		res, err := stay[0].Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range res.Build.Attempts[0].Log.Copies {
			on = append(on, c.Node)
		}
		return on
	}
	alone := 0
	for _, id := range ids {
		if on := copies(id); !slices.Contains(on, stay[0].Name) && !slices.Contains(on, stay[1].Name) {
			alone++
		}
	}
	if alone == 0 {
		t.Fatal("no log is on the two nodes alone: this shows nothing")
	}
	for _, n := range leave {
		if out, text, code := harness.CLI(t, n.Socket(), "cluster", "drain", n.Name); code != 0 {
			t.Fatal(out, text)
		}
	}
	testkit.Eventually(t, time.Minute, "each log is on both nodes that stay", func() bool {
		for _, id := range ids {
			if on := copies(id); !slices.Contains(on, stay[0].Name) || !slices.Contains(on, stay[1].Name) {
				return false
			}
		}
		return true
	})
	for _, n := range leave { // one after the other, because the majority is three of four
		testkit.Eventually(t, time.Minute, n.Name+" is removed", func() bool {
			_, err := stay[0].Operator().RemoveNode(ctx, &imagebuilderv1.RemoveNodeRequest{Node: n.Name})
			if err == nil {
				return true
			}
			for _, to := range stay { // the node may lead; one of these two votes
				_, _ = stay[0].Operator().TransferLeadership(ctx, &imagebuilderv1.TransferLeadershipRequest{To: to.Name})
			}
			return false
		})
		n.Kill()
	}
	for _, id := range ids {
		for _, n := range stay {
			got, err := harness.Persist(ctx, func(ctx context.Context) (string, error) { return n.ReadLog(ctx, id, 0) })
			if err != nil || got != logs[id] || got == "" {
				t.Errorf("the log of %s at %s: %v\n%q, before\n%q", id, n.Name, err, got, logs[id])
			}
		}
	}
	t.Logf("%d of %d logs were on the two nodes alone", alone, len(ids))
}
