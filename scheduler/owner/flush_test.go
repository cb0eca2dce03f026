package owner

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// slowCopies are logs whose other copies are long in coming.
type slowCopies struct {
	silent
	held chan struct{}
}

func (s slowCopies) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	return s, nil
}
func (s slowCopies) Flush(context.Context) error { <-s.held; return nil }

// Test_Digest_AfterTheLog: the digest, by which a next owner finds that nothing
// has to be run, is committed once all of the log can be found by that owner
// too, and not before. Else a build would succeed without the end of its log.
func Test_Digest_AfterTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1, 1)
		raft := &schedulertest.OneNode{W: w}
		ring := schedulertest.NewKeyring(t)
		w.Ask("a")
		a := w.Assignment()
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		tags := &slowTags{tags: map[string]string{}, held: make(chan struct{}), here: make(chan struct{})}
		close(tags.held)
		copies := slowCopies{held: make(chan struct{})}
		owner := NewOwner(OwnerOptions{
			Node: a.Owner, StoreID: "s", Store: w.Store, Raft: raft, Keyring: ring, Logs: copies, Publisher: tags,
			Runtimes: map[string]workload.Runtime{"copy": raft}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- owner.Run(ctx) }()
		synctest.Wait()
		if b := w.Store.Build(a.BuildId).Build; b.Digest != "" || b.Phase >= builds.Pushing {
			t.Errorf("%s with digest %q while a copy of the log is behind", b.Phase, b.Digest)
		}
		close(copies.held)
		time.Sleep(time.Minute)
		if b := w.Store.Build(a.BuildId).Build; b.Phase != builds.Succeeded {
			t.Errorf("the build is %s: %s", b.Phase, b.Message)
		}
		cancel()
		<-done
	})
}
