package cluster_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// Test_Floors_AnOlderCopyIsRefused starts a voter from an older copy of its data directory. No
// member may accept it, even after the leader has changed and started again, until its directory is
// emptied.
func Test_Floors_AnOlderCopyIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t)
		g.puts(1, 5)
		lead := g.leader().cfg.Name
		old, other := g.others(lead)[0], g.others(lead)[1]
		g.stop(old)
		dir := filepath.Join(g.dir, old)
		copied := g.copyOf(dir)
		g.start(old)
		g.puts(100, 10)
		time.Sleep(2 * time.Second) // simulated: pings
		g.stop(old)
		g.stop(lead) // its memory is lost
		g.start(lead)
		g.put(110)
		time.Sleep(2 * time.Second) // simulated
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(copied, dir); err != nil {
			t.Fatal(err)
		}
		m := g.start(old)
		time.Sleep(10 * time.Second) // simulated
		if got := m.sm.values(); slices.Contains(got, 100) || m.Status().LeaderName != "" {
			t.Errorf("the old copy is accepted: it follows %q and has %v", m.Status().LeaderName, got)
		}
		var leader *simNode
		for _, name := range []string{lead, other} {
			if g.nodes[name].Leads() {
				leader = g.nodes[name]
			}
		}
		if leader == nil {
			t.Fatal("there is no leader")
		}
		if i := slices.IndexFunc(leader.Members(), func(m cluster.Member) bool {
			return m.Name == old && strings.Contains(m.Answer.GetTrouble(), "is an older copy")
		}); i < 0 {
			t.Error("the leader does not report the older copy")
		}
		g.stop(old)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		g.start(old)
		g.allEqual(200)
	})
}
