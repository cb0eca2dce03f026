package node

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Needed: which logs keep a node, n2 with the data directory s2, from leaving for good: those
// of which no node that stays holds a copy.
func Test_Needed(t *testing.T) {
	const open, sealing, sealed, expired, lost = builds.LogOpen, builds.LogSealing, builds.LogSealed, builds.LogExpired, builds.LogLost
	for _, c := range []struct {
		what     string
		copies   string // as node/store
		log      imagebuilderv1.LogState
		drained  string // besides n2
		gone     string // nodes that are lost
		returned string // nodes that have another data directory now
		want     int
	}{
		{what: "a node that stays holds it, too", copies: "n2/s2 n0/s0", log: sealed, want: 0},
		{what: "it holds it alone", copies: "n2/s2", log: sealed, want: 1},
		{what: "the other one leaves as well", copies: "n2/s2 n1/s1", log: sealed, drained: "n1", want: 1},
		{what: "one of two others stays", copies: "n2/s2 n1/s1 n0/s0", log: sealed, drained: "n1", want: 0},
		{what: "the other one has just been lost", copies: "n2/s2 n1/s1", log: sealed, gone: "n1", want: 1},
		{what: "the other one's disk was wiped", copies: "n2/s2 n1/s1", log: sealed, returned: "n1", want: 1},
		{what: "nobody knows the other one", copies: "n2/s2 n9/s9", log: sealed, want: 1},
		{what: "it is of others, who leave as well", copies: "n0/s0 n1/s1", log: sealed, drained: "n0 n1", want: 0},
		{what: "it was on this node's former disk", copies: "n2/former", log: sealed, want: 0},
		{what: "its attempt runs", copies: "n2/s2", log: open, want: 1},
		{what: "its attempt runs, and is held by one that stays", copies: "n2/s2 n0/s0", log: open, want: 0},
		{what: "its end is being fixed", copies: "n2/s2", log: sealing, want: 1},
		{what: "its end is being fixed, by one that stays", copies: "n2/s2 n0/s0", log: sealing, want: 0},
		{what: "it was removed by retention", copies: "n2/s2", log: expired, want: 0},
		{what: "it was lost", copies: "n2/s2", log: lost, want: 0},
		{what: "its owner kept it alone, before logs had copies", log: sealed, want: 1},
	} {
		s := builds.NewStore()
		now, index := time.Unix(1_700_000_000, 0), uint64(0)
		apply := func(payload proto.Message) builds.Result {
			t.Helper()
			now, index = now.Add(time.Second), index+1
			cmd, err := builds.NewCommand(payload)
			if err != nil {
				t.Fatal(err)
			}
			cmd.TimeUnixNano = now.UnixNano()
			res, ok := s.Apply(index, cmd).(builds.Result)
			if !ok || res.Err != nil || res.Refused > 0 {
				t.Fatalf("%s: apply %T: %+v", c.what, payload, res)
			}
			return res
		}
		started := func(node, store, boot string) {
			apply(&buildsv1.NodeStarted{Name: node, StoreId: store, BootId: boot, Capacity: 8, Runtimes: []string{"copy"}})
		}
		for _, n := range []string{"0", "1", "2"} {
			started("n"+n, "s"+n, "b")
		}
		apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		apply(&buildsv1.CreateBuild{Id: "b", Ref: "r:b", TimeoutNanos: int64(time.Hour)})
		a := &buildsv1.AssignAttempt_Assignment{
			BuildId: "b", Attempt: 1, Epoch: 1, Owner: "n2", OwnerStoreId: "s2", BuildVersion: index, Runtime: "copy", Replicas: 2,
		}
		for _, x := range strings.Fields(c.copies) {
			node, store, _ := strings.Cut(x, "/")
			a.Copies = append(a.Copies, &imagebuilderv1.LogCopy{Node: node, StoreId: store})
		}
		apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		switch c.log {
		case sealing:
			started("n2", "s2", "b2") // which ends the attempt of its former process
		case lost:
			apply(&buildsv1.StopBuild{BuildId: "b", Reason: buildsv1.StopReason_STOP_REASON_UNSEALABLE})
		case sealed, expired:
			apply(&buildsv1.FinishAttempt{BuildId: "b", Attempt: 1, Epoch: 1, Phase: builds.Failed, Blame: builds.BlameUser})
		}
		if c.log == expired {
			now = now.Add(time.Duration(builds.DefaultSettings().HistoryMinAgeNanos))
			apply(&buildsv1.ExpireLogs{BuildIds: []string{"b"}})
		}
		for _, n := range strings.Fields(c.drained + " n2") {
			apply(&buildsv1.DrainNode{Name: n, Drained: true})
		}
		for _, n := range strings.Fields(c.gone) {
			apply(&buildsv1.NodeLost{Name: n, StoreId: "s" + n[1:], BootId: "b", Reason: "test"})
		}
		for _, n := range strings.Fields(c.returned) {
			started(n, "another", "b2")
		}
		view := s.View()
		if got := view.Build("b").Build.Attempts[0].Log.State; got != c.log {
			t.Fatalf("%s: the log is %s, want %s", c.what, got, c.log)
		}
		if got := soleLogs(view, "n2", "s2"); got != c.want {
			t.Errorf("%s: %d logs need the node, want %d", c.what, got, c.want)
		}
	}
}

// Test_Leave_KeepsTheDrainOfAnOperator: a node that cannot leave, here since nobody else could
// lead, ends the drain that it began, and no other.
func Test_Leave_KeepsTheDrainOfAnOperator(t *testing.T) {
	for _, before := range []bool{false, true} {
		n := lone(t, t.TempDir())
		n.openLone(t)
		n.commitAs(t, &buildsv1.DrainNode{Name: "n0", Drained: before})
		if err := n.drainToLeave(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.leave(t.Context())
		if after := n.store.View().Node("n0").Drained; after != before {
			t.Errorf("drained before: %v, after the node did not leave: %v", before, after)
		}
	}
}
