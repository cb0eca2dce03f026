package node

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Restore_WhatCannotBeRead: a snapshot of a newer version is refused before anything of it is
// kept, and the node goes on, also after a restart.
func Test_Restore_WhatCannotBeRead(t *testing.T) {
	newer := lone(t, t.TempDir())
	newer.openLone(t)
	newer.commitAs(t, &buildsv1.SetFeatureLevel{Level: builds.FeatureLevel + 1})
	raw := newer.saved(t)

	dir := t.TempDir()
	n := lone(t, dir)
	n.openLone(t)
	if _, err := n.restore(t.Context(), raw); err == nil || !strings.Contains(err.Error(), "needs feature level") {
		t.Errorf("a snapshot of a newer version: %v", err)
	}
	n.commitAs(t, &buildsv1.SetFeatureLevel{Level: 2})
	if err := n.cluster.Close(); err != nil {
		t.Fatal(err)
	}
	n = lone(t, dir)
	n.openLone(t)
	if n.level() != 2 {
		t.Errorf("after a restart the state is at level %d", n.level())
	}
}

// Test_Restore_RunningBuilds: what ran when the snapshot was taken, and has ended since, is tried
// again, although its node is the same process, and the caller has gone meanwhile. So is what
// outlives its node.
func Test_Restore_RunningBuilds(t *testing.T) {
	n := lone(t, t.TempDir())
	n.openLone(t)
	n.commitAs(t, &buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	b := n.commitAs(t, &buildsv1.CreateBuild{
		Ref: "r:1", BaseRef: "base", Requester: "r", TimeoutNanos: int64(time.Hour),
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "base"}}},
	}).Build
	pod := n.commitAs(t, &buildsv1.CreateBuild{
		Ref: "r:2", BaseRef: "base", Requester: "r", TimeoutNanos: int64(time.Hour),
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "base"}}},
	}).Build
	n.commitAs(t, &buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
		BuildId: b.Id, Attempt: 1, Owner: "n0", OwnerStoreId: n.cluster.StoreID(), Epoch: 1, BuildVersion: b.Version, Runtime: "copy",
	}, {
		BuildId: pod.Id, Attempt: 1, Owner: "n0", OwnerStoreId: n.cluster.StoreID(), Epoch: 1, BuildVersion: pod.Version, Runtime: "pod", Adoptable: true,
	}}})
	for _, id := range []string{b.Id, pod.Id} {
		n.commitAs(t, &buildsv1.ReportPhase{BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Running})
	}
	raw := n.saved(t)
	for _, id := range []string{b.Id, pod.Id} {
		n.commitAs(t, &buildsv1.FinishAttempt{BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Failed, Blame: builds.BlameUser})
	}

	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := n.restore(gone, raw); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{b.Id, pod.Id} {
		if r := n.store.Build(id).Build; r.Phase != builds.Queued || r.Attempts[0].Phase != builds.Failed || r.Attempts[0].Counted {
			t.Errorf("after the restore the build of %s is %s, its attempt %s", r.Ref, r.Phase, r.Attempts[0].Phase)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.keepLease(ctx) }()
	defer func() { cancel(); <-done }()
	n.until(t, "the node is known again", func(st *builds.State) bool { return !st.Node("n0").GetLost() })
}

// Test_Restore_RaisesTheLevelAgain: also a leader that has raised the feature level does, when a
// snapshot brings a lower one.
func Test_Restore_RaisesTheLevelAgain(t *testing.T) {
	older := lone(t, t.TempDir())
	older.openLone(t)
	raw := older.saved(t)

	n := lone(t, t.TempDir())
	n.cluster.Lead(n.raiseLevel)
	n.openLone(t)
	highest := func(st *builds.State) bool { return st.Level() == builds.FeatureLevel }
	n.until(t, "the level is raised", highest)
	if _, err := n.restore(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	n.until(t, "the level is raised again", highest)
}
