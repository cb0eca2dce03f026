package owner

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/test/knownfault"
)

// Test_KnownFault_LateTagAfterAFailedBuild delays the request by which an owner tags its image, until
// the owner is deposed, the next attempt has tagged the same image, a second build of the ref has
// tagged another one, and a third build of the ref has failed. The late request then succeeds. In
// the end the tag must name the image of the newest build that has succeeded.
func Test_KnownFault_LateTagAfterAFailedBuild(t *testing.T) {
	knownfault.RunSimulated(t, "part 3: the late tag of a deposed owner stays after a failed build", func(t knownfault.TB) {
		w := schedulertest.NewWorld(t, 1, 1)
		raft := &schedulertest.Raft{W: w}
		tags := &tagRegistry{tags: map[string]string{}, arrived: make(chan struct{}), release: make(chan struct{})}
		create := func(id string) {
			w.Apply(&buildsv1.CreateBuild{
				Id: id, Ref: "r:image", Requester: "a", TimeoutNanos: int64(time.Hour), Force: true,
				Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "b"}}},
			})
		}
		create("0001")
		a := w.Assignment()
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		owner := New(Options{
			Node: a.Owner, StoreID: "s", Store: w.Store, Raft: raft, Keyring: schedulertest.NewKeyring(t), Logs: nullLogs{}, DamagedLogs: nullLogs{}, Publisher: tags,
			Runtimes: map[string]workload.Runtime{"copy": schedulertest.Runtime{}}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- owner.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		<-tags.arrived // the owner is about to tag sha256:first

		commit := func(payload proto.Message) {
			t.Helper()
			raft.Mu.Lock()
			w.Apply(payload)
			raft.Mu.Unlock()
			synctest.Wait()
		}
		// attempt runs the next attempt of the oldest queued build on the other node. It publishes
		// the digest, or fails if that is empty.
		attempt := func(digest string) {
			t.Helper()
			w.Now = w.Now.Add(time.Minute)
			n := w.Assignment(a.Owner)
			commit(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{n}})
			if digest == "" {
				commit(&buildsv1.FinishAttempt{BuildId: n.BuildId, Attempt: n.Attempt, Epoch: n.Epoch, Phase: builds.Failed, Blame: builds.BlameUser, Message: "exit code 1"})
				return
			}
			for _, p := range []*buildsv1.ReportPhase{{Phase: builds.Starting}, {Phase: builds.Running}, {Phase: builds.Pushing, Digest: digest}} {
				p.BuildId, p.Attempt, p.Epoch = n.BuildId, n.Attempt, n.Epoch
				commit(p)
			}
			tags.mu.Lock()
			tags.tags["r:image"] = "r@" + digest
			tags.mu.Unlock()
			commit(&buildsv1.FinishAttempt{BuildId: n.BuildId, Attempt: n.Attempt, Epoch: n.Epoch, Phase: builds.Succeeded, Digest: digest})
		}
		commit(&buildsv1.NodeLost{Name: a.Owner, StoreId: "s", BootId: "b", Reason: "test"})
		attempt("sha256:first")
		create("0002")
		attempt("sha256:second")
		create("0003")
		attempt("")
		close(tags.release)
		synctest.Wait()
		tags.mu.Lock()
		defer tags.mu.Unlock()
		if got := tags.tags["r:image"]; got != "r@sha256:second" {
			t.Errorf("the tag names %s, but the newest success is sha256:second", got)
		}
	})
}
