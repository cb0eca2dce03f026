//go:build faults

package cluster

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_BusyMachine_RefusesNoCalls keeps all processors busy for ten seconds while builds run. A slow
// leader is not a lost one: no node refuses the calls of clients.
func Test_BusyMachine_RefusesNoCalls(t *testing.T) {
	c, refs := harness.StartClusterWithImages(t, 3, 30, nil)
	l := harness.StartCallers(t, c, refs, 8, 10)
	testkit.Eventually(t, time.Minute, "builds go through", func() bool { return l.Builds.Load() > 10 })
	for range 4 * runtime.NumCPU() {
		busy := exec.Command("sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
	}
	<-time.After(10 * time.Second) // the fault: the processors are busy
	l.End()
	for _, n := range c.Nodes {
		log := n.Log()
		t.Logf("%s began %d elections without the end of a process", n.Name, strings.Count(log, "a majority does not hear the leader"))
		if strings.Contains(log, "this node reaches no leader") {
			t.Errorf("%s refused calls although there was a leader", n.Name)
		}
	}
}
