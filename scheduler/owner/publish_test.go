package owner

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// Test_Publish_ALateTagIsRepaired holds up the first tag of an owner until the next owner, which
// did not find the image, has published another one.
func Test_Publish_ALateTagIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1, 1)
		raft := &schedulertest.Raft{W: w}
		tags := &tagRegistry{arrived: make(chan struct{}), release: make(chan struct{})}
		a := assign(w)
		stop := run(t, w, Options{Node: a.Owner, Raft: raft, Publisher: tags})
		<-tags.arrived

		commit := func(payload proto.Message) {
			t.Helper()
			raft.Mu.Lock()
			w.Apply(payload)
			raft.Mu.Unlock()
			synctest.Wait() // the owner sees the change
		}
		commit(&buildsv1.NodeLost{Name: a.Owner, StoreId: "s", BootId: "b", Reason: "test"})
		w.Now = w.Now.Add(time.Minute)
		commit(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{w.Assignment(a.Owner)}})
		n := w.Store.Build(a.BuildId).Build.Attempts[1]
		for _, p := range []*buildsv1.ReportPhase{{Phase: builds.Starting}, {Phase: builds.Running}, {Phase: builds.Pushing, Digest: "sha256:second", FormerDigestMissing: true}} {
			p.BuildId, p.Attempt, p.Epoch = a.BuildId, n.Number, n.Epoch
			commit(p)
		}
		commit(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: n.Number, Epoch: n.Epoch, Phase: builds.Succeeded, Digest: "sha256:second"})
		close(tags.release)
		synctest.Wait()
		stop()
		if len(tags.tags) == 0 {
			t.Error("nothing is tagged")
		}
		for ref, image := range tags.tags {
			if image != "r@sha256:second" {
				t.Errorf("%s is %s, want the second digest", ref, image)
			}
		}
	})
}

// unreachable is a registry that does not respond to Publish.
type unreachable struct{}

func (unreachable) Publish(ctx context.Context, _, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}
func (unreachable) Exists(context.Context, string) (bool, error) { return false, nil }

// Test_Publish_ARegistryThatStaysAway: an attempt that only waits for the registry ends after
// registryTimeout, so that another node can continue. It is not counted.
func Test_Publish_ARegistryThatStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1)
		a := assign(w)
		stop := run(t, w, Options{Node: a.Owner, Publisher: unreachable{}})
		time.Sleep(registryTimeout - time.Second)
		if p := w.Store.Build(a.BuildId).Build.Phase; p != builds.Pushing {
			t.Errorf("the build is %s", p)
		}
		time.Sleep(2 * time.Second)
		b := w.Store.Build(a.BuildId).Build
		if first := b.Attempts[0]; b.Phase != builds.Queued || first.Counted || !strings.Contains(first.Message, "could not be reached") {
			t.Errorf("the build is %s, its attempt %v", b.Phase, first)
		}
		stop()
	})
}
