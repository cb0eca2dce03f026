package cluster_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_ClockSkew_LeaderStepsAside shifts the leader's clock forward and back by more than
// MaxClockSkew. Another node must lead soon, and the log must say why. A wrong clock of a follower
// changes nothing.
func Test_ClockSkew_LeaderStepsAside(t *testing.T) {
	g := newGroup(t)
	var said notes
	clocks := map[string]*atomic.Int64{}
	for i := range 3 {
		name, off := fmt.Sprintf("n%d", i), new(atomic.Int64)
		clocks[name] = off
		g.start(name, func(c *cluster.Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
			c.Zone, c.Logger = "zone-"+name, said.logger()
		})
	}
	for off, sign := range map[time.Duration]string{time.Minute: "", -time.Minute: "-"} {
		lead := g.leader()
		name := lead.cfg.Name
		clocks[name].Store(int64(off))
		testkit.Eventually(t, time.Minute, "a node whose clock is right leads", func() bool {
			return said.has("gives up leadership", "node="+name, "its clock is "+sign+"1m0s off") && g.leader().cfg.Name != name
		})
		// Operators see the skew and the metadata of each node.
		testkit.Eventually(t, time.Minute, "the leader knows clock and zone of all members", func() bool {
			skewed, zones := false, 0
			for _, m := range g.leader().Members() {
				skewed = skewed || m.Name == name && (m.Skew-off).Abs() < 5*time.Second
				if m.Zone == "zone-"+m.Name {
					zones++
				}
			}
			return skewed && zones == 3
		})
		put(t, g.leader().Node, 1)
		clocks[name].Store(0)
	}
}
