package owner

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// silent keeps no logs.
type silent struct{}

func (silent) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	return silent{}, nil
}
func (silent) Fence(logs.Key, uint64) (int64, string, error) { return 0, "", nil }
func (silent) Copy(logs.Key, uint64, []*imagebuilderv1.LogCopy) (*logs.Feed, error) {
	return nil, errors.New("no copies")
}
func (silent) Complete(logs.Key, int64) error         { return nil }
func (silent) Completed(logs.Key) bool                { return true }
func (silent) Damaged() ([]logs.Key, <-chan struct{}) { return nil, nil }
func (silent) RemoveDamaged(logs.Key) error           { return nil }
func (silent) Whole(context.Context, logs.Key, *imagebuilderv1.AttemptLog, *imagebuilderv1.LogCopy) error {
	return nil
}
func (silent) Write(p []byte) (int, error)                 { return len(p), nil }
func (silent) RawOffset() int64                            { return 0 }
func (silent) Marker(string) error                         { return nil }
func (silent) Redact(s string) string                      { return s }
func (silent) Flush(context.Context) error                 { return nil }
func (silent) Seal(context.Context) (int64, string, error) { return 0, "", nil }
func (silent) Feed() *logs.Feed                            { return nil }
func (silent) Close()                                      {}

// slowTags is a registry one of whose requests is held up.
type slowTags struct {
	mu   sync.Mutex
	tags map[string]string
	held chan struct{} // the first request waits for it, whatever its context says
	here chan struct{}
	once sync.Once
}

func (r *slowTags) Publish(_ context.Context, image, ref string) error {
	r.once.Do(func() {
		close(r.here)
		<-r.held
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tags[ref] = image
	return nil
}
func (r *slowTags) Exists(context.Context, string) (bool, error) { return false, nil }

// startOwner assigns a build to the only node of a world and runs its owner until
// the answered function is called, which waits.
func startOwner(t *testing.T, w *schedulertest.World, l Logs, p Publisher) (build string, stop func()) {
	t.Helper()
	raft := &schedulertest.OneNode{W: w}
	w.Ask("a")
	a := w.Assignment()
	w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
	owner := NewOwner(OwnerOptions{
		Node: a.Owner, StoreID: "s", Store: w.Store, Raft: raft, Keyring: schedulertest.NewKeyring(t), Logs: l, Publisher: p,
		Runtimes: map[string]workload.Runtime{"copy": raft}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- owner.Run(ctx) }()
	return a.BuildId, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Test_Publish_ALateTagIsRepaired holds up an owner's request to tag until the
// next owner, who found the image missing, has published another one.
func Test_Publish_ALateTagIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1, 1)
		raft := &schedulertest.OneNode{W: w}
		ring := schedulertest.NewKeyring(t)
		tags := &slowTags{tags: map[string]string{}, held: make(chan struct{}), here: make(chan struct{})}
		w.Ask("a")
		a := w.Assignment()
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		first := w.Store.Build(a.BuildId).Build.Attempts[0]
		owner := NewOwner(OwnerOptions{
			Node: first.Owner, StoreID: "s", Store: w.Store, Raft: raft, Keyring: ring, Logs: silent{}, Publisher: tags,
			Runtimes: map[string]workload.Runtime{"copy": raft}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- owner.Run(ctx) }()
		<-tags.here

		commit := func(payload proto.Message) {
			t.Helper()
			raft.Mu.Lock()
			w.Apply(payload)
			raft.Mu.Unlock()
			synctest.Wait() // the owner has seen it
		}
		commit(&buildsv1.NodeLost{Name: first.Owner, StoreId: "s", BootId: "b", Reason: "test"})
		w.Now = w.Now.Add(time.Minute)
		second := []*buildsv1.AssignAttempt_Assignment{w.Assignment(first.Owner)}
		commit(&buildsv1.AssignAttempt{Assignments: second})
		n := w.Store.Build(a.BuildId).Build.Attempts[1]
		for _, p := range []*buildsv1.ReportPhase{{Phase: builds.Starting}, {Phase: builds.Running}, {Phase: builds.Pushing, Digest: "sha256:second", FormerDigestMissing: true}} {
			p.BuildId, p.Attempt, p.Epoch = a.BuildId, n.Number, n.Epoch
			commit(p)
		}
		commit(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: n.Number, Epoch: n.Epoch, Phase: builds.Succeeded, Digest: "sha256:second"})
		close(tags.held)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for ref, image := range tags.tags {
			if image != "r@sha256:second" {
				t.Errorf("%s is %s, want the second digest", ref, image)
			}
		}
	})
}
