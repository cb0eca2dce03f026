package owner

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// Test_NextCopy: the node that copies a complete log, and its target, when nodes are drained or
// lost.
func Test_NextCopy(t *testing.T) {
	for _, c := range []struct {
		what, copies, drained, lost string
		from, to, stay              string // to: any of these nodes
	}{
		{what: "nothing is lost", copies: "n0 n1"},
		{what: "one is drained", copies: "n0 n1", drained: "n0", from: "n1", to: "n2 n3", stay: "n1"},
		{what: "one is lost for long", copies: "n0 n1", lost: "n1", from: "n0", to: "n2 n3", stay: "n0"},
		{what: "both are drained together", copies: "n2 n3", drained: "n2 n3", from: "n2", to: "n0 n1", stay: "n2 n3"},
		{what: "both are drained, one of them is lost", copies: "n2 n3", drained: "n2 n3", lost: "n2", from: "n3", to: "n0 n1", stay: "n3"},
		{what: "the first one of others is made", copies: "n2 n3 n0", drained: "n2 n3", from: "n0", to: "n1", stay: "n0"},
		{what: "all others are made", copies: "n0 n1", drained: "n2 n3"},
		{what: "no node is left", copies: "n0 n1", drained: "n0 n1 n2 n3"},
		{what: "all copies are lost", copies: "n0 n1", lost: "n0 n1"},
	} {
		w := schedulertest.NewWorld(t, 8, 8, 8, 8)
		w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		for _, n := range strings.Fields(c.drained) {
			w.Apply(&buildsv1.DrainNode{Name: n, Drained: true})
		}
		for _, n := range strings.Fields(c.lost) {
			w.Apply(&buildsv1.NodeLost{Name: n, StoreId: "s", BootId: "b", Reason: "test"})
		}
		a := &imagebuilderv1.Attempt{Number: 1, Log: &imagebuilderv1.AttemptLog{State: builds.LogSealed, Replicas: 2}}
		for _, n := range strings.Fields(c.copies) {
			a.Log.Copies = append(a.Log.Copies, &imagebuilderv1.LogCopy{Node: n, StoreId: "s"})
		}
		view := w.Store.View()
		later := time.Unix(0, view.Time()).Add(time.Hour)
		from := ""
		for _, n := range []string{"n0", "n1", "n2", "n3"} {
			o := &Owner{opts: Options{Node: n, StoreID: "s", RepairAfter: time.Minute}}
			stay, to := o.nextCopy(view, later, o.holders(view), "build", a)
			if to == nil {
				continue
			}
			from += n
			var names []string
			for _, x := range stay {
				names = append(names, x.Node)
			}
			if got := strings.Join(names, " "); got != c.stay || !strings.Contains(c.to, to.Name) {
				t.Errorf("%s: %s copies to %s, beside %s; want one of %s, beside %s", c.what, n, to.Name, got, c.to, c.stay)
			}
		}
		if from != c.from {
			t.Errorf("%s: copied by %q, want %q", c.what, from, c.from)
		}
	}
}

// damagedLogs are logs whose copies on this node are damaged.
type damagedLogs struct {
	nullLogs
	keys []logs.Key
}

func (d damagedLogs) Damaged() ([]logs.Key, <-chan struct{}) { return d.keys, nil }

// Test_RepairAll_OwnCopyIsDamaged: a node copies no log of which its own copy is damaged, and does not
// look for it again each second.
func Test_RepairAll_OwnCopyIsDamaged(t *testing.T) {
	for name, damaged := range map[string]bool{"intact": false, "damaged": true} {
		w := schedulertest.NewWorld(t, 8, 8)
		w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		w.Create("a")
		a := w.Assignment()
		a.Copies, a.Replicas = []*imagebuilderv1.LogCopy{{Node: "n0", StoreId: "s"}}, 2
		w.Assign(a)
		w.Apply(&buildsv1.FinishAttempt{
			BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameUser, LogLength: 10, LogChecksum: "sum",
		})
		d := damagedLogs{}
		if damaged {
			d.keys = []logs.Key{{Build: a.BuildId, Attempt: 1}}
		}
		o := New(Options{Node: "n0", StoreID: "s", Store: w.Store, RepairAfter: time.Hour, Logs: nullLogs{}, DamagedLogs: d, Log: slog.New(slog.DiscardHandler)})
		if found := o.repairAll(t.Context()); found == damaged {
			t.Errorf("%s: a log to copy was found: %v", name, found)
		}
	}
}
