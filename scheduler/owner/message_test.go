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
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// latin1 is a runtime whose texts are not UTF-8, as those of old programs.
type latin1 struct{ *schedulertest.OneNode }

func (latin1) Run(_ context.Context, _ *workload.Workload, s workload.Sink) (workload.Outcome, error) {
	s.Steps([]*imagebuilderv1.Step{{Name: "RUN caf\xe9", Error: "caf\xe9"}})
	return workload.Outcome{}, &workload.Failure{Blame: builds.BlameUser, Message: "no such file: caf\xe9"}
}

// Test_Finish_WhateverTheText: an attempt ends although what its runtime says
// of it cannot be encoded as it is.
func Test_Finish_WhateverTheText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1)
		ring := schedulertest.NewKeyring(t)
		w.Ask("a")
		a := w.Assignment()
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		rt := latin1{&schedulertest.OneNode{W: w}}
		owner := NewOwner(OwnerOptions{
			Node: a.Owner, StoreID: "s", Store: w.Store, Raft: rt, Keyring: ring, Logs: silent{}, Publisher: &slowTags{},
			Runtimes: map[string]workload.Runtime{"copy": rt}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- owner.Run(ctx) }()
		ctxutil.Sleep(ctx, time.Minute)
		b := w.Store.Build(a.BuildId).Build
		if b.Phase != builds.Failed || b.Message != "no such file: caf?" {
			t.Errorf("after a minute the build is %s: %q", b.Phase, b.Message)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
