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

// Test_SoleLogs lists the logs that keep the node n2 with the data directory s2 from leaving: those
// of which no node that stays has a copy.
func Test_SoleLogs(t *testing.T) {
	const open, sealing, sealed, expired, lost = builds.LogOpen, builds.LogSealing, builds.LogSealed, builds.LogExpired, builds.LogLost
	for _, c := range []struct {
		what     string
		copies   string // of the form node/store
		log      imagebuilderv1.LogState
		drained  string // drained nodes besides n2
		gone     string // lost nodes
		returned string // nodes with a new data directory
		want     int
	}{
		{what: "a node that stays has a copy, too", copies: "n2/s2 n0/s0", log: sealed, want: 0},
		{what: "no other node has a copy", copies: "n2/s2", log: sealed, want: 1},
		{what: "the other node leaves as well", copies: "n2/s2 n1/s1", log: sealed, drained: "n1", want: 1},
		{what: "one of two others stays", copies: "n2/s2 n1/s1 n0/s0", log: sealed, drained: "n1", want: 0},
		{what: "the other node was lost just now", copies: "n2/s2 n1/s1", log: sealed, gone: "n1", want: 1},
		{what: "the disk of the other node was wiped", copies: "n2/s2 n1/s1", log: sealed, returned: "n1", want: 1},
		{what: "the other node is unknown", copies: "n2/s2 n9/s9", log: sealed, want: 1},
		{what: "only other nodes have copies, and leave as well", copies: "n0/s0 n1/s1", log: sealed, drained: "n0 n1", want: 0},
		{what: "the copy was on the former disk of this node", copies: "n2/former", log: sealed, want: 0},
		{what: "the attempt runs", copies: "n2/s2", log: open, want: 1},
		{what: "the attempt runs, and a node that stays has a copy", copies: "n2/s2 n0/s0", log: open, want: 0},
		{what: "the log is being sealed", copies: "n2/s2", log: sealing, want: 1},
		{what: "the log is being sealed, and a node that stays has a copy", copies: "n2/s2 n0/s0", log: sealing, want: 0},
		{what: "the log was removed by retention", copies: "n2/s2", log: expired, want: 0},
		{what: "the log was lost", copies: "n2/s2", log: lost, want: 0},
		{what: "the log is of a version without copies", log: sealed, want: 1},
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
			started("n2", "s2", "b2") // ends the attempt of the former process
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
			t.Errorf("%s: %d logs keep the node, want %d", c.what, got, c.want)
		}
	}
}

// Test_Leave_KeepsAnOperatorsDrain checks that a node that cannot leave, here because no other node
// could lead, ends its own drain and not that of an operator.
func Test_Leave_KeepsAnOperatorsDrain(t *testing.T) {
	for _, before := range []bool{false, true} {
		n := lone(t, t.TempDir())
		n.openAlone(t)
		n.mustCommit(t, &buildsv1.DrainNode{Name: "n0", Drained: before})
		if err := n.drainToLeave(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.leave(t.Context())
		if after := n.store.View().Node("n0").Drained; after != before {
			t.Errorf("drained is %v before, and %v after the node failed to leave", before, after)
		}
	}
}
