package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Restore_NewerVersion checks that a snapshot of a newer version is refused before the node
// stores any of it, and that the node continues, even after a restart.
func Test_Restore_NewerVersion(t *testing.T) {
	newer := lone(t, t.TempDir())
	newer.openAlone(t)
	raw := atLevel(t, newer.savedSnapshot(t), builds.FeatureLevel+1)

	dir := t.TempDir()
	n := lone(t, dir)
	n.openAlone(t)
	n.mustCommit(t, &buildsv1.SetFeatureLevel{Level: builds.RestoreLevel})
	if _, err := n.restore(t.Context(), raw); err == nil || !strings.Contains(err.Error(), "this version knows") {
		t.Errorf("a snapshot of a newer version: %v", err)
	}
	n.mustCommit(t, &buildsv1.DrainNode{Name: "n0"})
	if err := n.cluster.Close(); err != nil {
		t.Fatal(err)
	}
	n = lone(t, dir)
	n.openAlone(t)
	if n.level() != builds.RestoreLevel {
		t.Errorf("after a restart the state is at level %d", n.level())
	}
}

// Test_Restore_OlderLevel checks that the cluster keeps its feature level when a snapshot of a lower
// one is restored: no leader could raise it while a member is down. The level stays after a restart,
// and a second restore is possible.
func Test_Restore_OlderLevel(t *testing.T) {
	dir := t.TempDir()
	n := lone(t, dir)
	n.openAlone(t)
	n.mustCommit(t, &buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	raw := atLevel(t, n.savedSnapshot(t), builds.RestoreLevel-1)
	for range 2 {
		if _, err := n.restore(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		if n.level() != builds.FeatureLevel {
			t.Errorf("after the restore the state is at level %d", n.level())
		}
	}
	if err := n.cluster.Close(); err != nil {
		t.Fatal(err)
	}
	n = lone(t, dir)
	n.openAlone(t)
	if n.level() != builds.FeatureLevel {
		t.Errorf("after a restart the state is at level %d", n.level())
	}
}

// atLevel returns a snapshot of package cluster with another feature level in the header of package
// builds. The format of package cluster has 16 bytes before the state, and a checksum of 8 bytes
// after it.
func atLevel(t *testing.T, raw []byte, level uint32) []byte {
	t.Helper()
	state := bytes.NewReader(raw[16 : len(raw)-8])
	header := new(buildsv1.SnapshotHeader)
	if err := protodelim.UnmarshalFrom(state, header); err != nil {
		t.Fatal(err)
	}
	header.FeatureLevel = level
	out := bytes.NewBuffer(bytes.Clone(raw[:16]))
	if _, err := protodelim.MarshalTo(out, header); err != nil {
		t.Fatal(err)
	}
	if _, err := state.WriteTo(out); err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.AppendUint64(out.Bytes(), xxhash.Sum64(out.Bytes()))
}

// Test_Restore_RunningBuilds checks that attempts that ran when the snapshot was taken are
// repeated, even if they have ended since, their node is the same process, their workload outlives
// nodes, and the caller has cancelled.
func Test_Restore_RunningBuilds(t *testing.T) {
	n := lone(t, t.TempDir())
	n.openAlone(t)
	n.mustCommit(t, &buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	b := n.mustCommit(t, &buildsv1.CreateBuild{
		Ref: "r:1", BaseRef: "base", Requester: "r", TimeoutNanos: int64(time.Hour),
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "base"}}},
	}).Build
	pod := n.mustCommit(t, &buildsv1.CreateBuild{
		Ref: "r:2", BaseRef: "base", Requester: "r", TimeoutNanos: int64(time.Hour),
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "base"}}},
	}).Build
	n.mustCommit(t, &buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
		BuildId: b.Id, Attempt: 1, Owner: "n0", OwnerStoreId: n.cluster.StoreID(), Epoch: 1, BuildVersion: b.Version, Runtime: "copy",
	}, {
		BuildId: pod.Id, Attempt: 1, Owner: "n0", OwnerStoreId: n.cluster.StoreID(), Epoch: 1, BuildVersion: pod.Version, Runtime: "pod", Adoptable: true,
	}}})
	for _, id := range []string{b.Id, pod.Id} {
		n.mustCommit(t, &buildsv1.ReportPhase{BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Running})
	}
	raw := n.savedSnapshot(t)
	for _, id := range []string{b.Id, pod.Id} {
		n.mustCommit(t, &buildsv1.FinishAttempt{BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Failed, Blame: builds.BlameUser})
	}

	cancelled, leave := context.WithCancel(t.Context())
	leave()
	if _, err := n.restore(cancelled, raw); err != nil {
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
	n.awaitState(t, "the node is registered again", func(st *builds.State) bool { return !st.Node("n0").GetLost() })
}

// Test_Restore_RaisesTheLevel checks that a leader that has raised the feature level raises it
// again after a snapshot with a lower level.
func Test_Restore_RaisesTheLevel(t *testing.T) {
	older := lone(t, t.TempDir())
	older.openAlone(t)
	raw := older.savedSnapshot(t)

	n := lone(t, t.TempDir())
	n.cluster.Lead(n.raiseLevel)
	n.openAlone(t)
	highest := func(st *builds.State) bool { return st.Level() == builds.FeatureLevel }
	n.awaitState(t, "the level is raised", highest)
	if _, err := n.restore(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	n.awaitState(t, "the level is raised again", highest)
}
