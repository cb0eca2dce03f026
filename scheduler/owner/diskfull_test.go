package owner

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// noRoom are logs on a full disk: they cannot be opened, or not be completed.
type noRoom struct {
	silent
	opens bool
}

var errNoRoom = fmt.Errorf("%w (%w)", logs.ErrNoSpace, syscall.ENOSPC)

func (d noRoom) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	if !d.opens {
		return nil, errNoRoom
	}
	return d, nil
}

func (d noRoom) Seal(context.Context) (int64, string, error) { return 0, "", errNoRoom }

// Test_DiskFull_IsTheNodes: an attempt whose log finds no room ends as its
// node's, after the leader could ask the node how it is, and the next one
// begins on another node.
func Test_DiskFull_IsTheNodes(t *testing.T) {
	for name, disk := range map[string]noRoom{"opened": {}, "completed": {opens: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1, 1)
				raft := &schedulertest.OneNode{W: w}
				ring := schedulertest.NewKeyring(t)
				w.Ask("a")
				a := w.Assignment()
				w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
				tags := &slowTags{tags: map[string]string{}, held: make(chan struct{}), here: make(chan struct{})}
				close(tags.held)
				owner := NewOwner(OwnerOptions{
					Node: a.Owner, StoreID: "s", Store: w.Store, Raft: raft, Keyring: ring, Logs: disk, Publisher: tags,
					Runtimes: map[string]workload.Runtime{"copy": raft}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
				})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- owner.Run(ctx) }()
				ctxutil.Sleep(ctx, fullPause-time.Millisecond)
				synctest.Wait()
				if b := w.Store.Build(a.BuildId).Build; b.Phase == builds.Queued {
					t.Error("given back before the leader can know")
				}
				ctxutil.Sleep(ctx, time.Second)
				synctest.Wait()
				r := w.Store.Build(a.BuildId)
				first := r.Build.Attempts[0]
				if r.Build.Phase != builds.Queued || first.Phase != builds.Failed || first.Counted || r.CountedAttempts != 0 {
					t.Errorf("the build is %s, its attempt %v", r.Build.Phase, first)
				}
				if !strings.Contains(first.Message, "node "+a.Owner+" cannot write logs") {
					t.Errorf("it says %q", first.Message)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// ready is a registry that has every image already, and a runtime that must not
// run.
type ready struct {
	*schedulertest.OneNode
	ran bool
}

func (r *ready) Run(context.Context, *workload.Workload, workload.Sink) (workload.Outcome, error) {
	r.ran = true
	return workload.Outcome{Repository: "r", Digest: "sha256:another"}, nil
}
func (*ready) Publish(context.Context, string, string) error { return nil }
func (*ready) Exists(context.Context, string) (bool, error)  { return true, nil }

// Test_Publish_ACommittedDigestIsNotBuiltAgain: an attempt ended with its node
// after it had committed a digest; the next one finds the image and finishes
// without building.
func Test_Publish_ACommittedDigestIsNotBuiltAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1, 1)
		ring := schedulertest.NewKeyring(t)
		w.Ask("a")
		a := w.Assignment()
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		w.Apply(&buildsv1.ReportPhase{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Pushing, Digest: "sha256:first"})
		w.Apply(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameInfrastructure, Uncounted: true})
		second := []*buildsv1.AssignAttempt_Assignment{w.Assignment()}
		w.Apply(&buildsv1.AssignAttempt{Assignments: second})
		r := &ready{OneNode: &schedulertest.OneNode{W: w}}
		owner := NewOwner(OwnerOptions{
			Node: second[0].Owner, StoreID: "s", Store: w.Store, Raft: r, Keyring: ring, Logs: silent{}, Publisher: r,
			Runtimes: map[string]workload.Runtime{"copy": r}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- owner.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if b := w.Store.Build(a.BuildId).Build; b.Phase != builds.Succeeded || b.Digest != "sha256:first" || r.ran {
			t.Errorf("the build is %s with %s, built again: %v", b.Phase, b.Digest, r.ran)
		}
	})
}
