//go:build faults

package chaos

import (
	"context"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/verify"
)

// A nemesis injects a fault for the duration of the step. The caller heals the world afterwards.
type nemesis func(ctx context.Context, w *world, victims []*harness.Node, s Step)

// nemeses are all nemeses by name. A nemesis affects a minority of the nodes, or it damages no data
// on disks.
var nemeses = map[string]nemesis{
	"kill":            kill,
	"kill-minority":   killMinority,
	"kill-all":        killAll,
	"restart-storm":   restartStorm,
	"stop":            stop,
	"pause":           pause,
	"partition":       partition,
	"leader-alone":    partition,
	"one-way":         oneWay,
	"bridge":          bridge,
	"host-lost":       hostLost,
	"loss":            loss,
	"slow-network":    slowNetwork,
	"delay":           delay,
	"clock":           clock,
	"kill-partition":  killPartition,
	"drained-killed":  drainedKilled,
	"late-calls":      lateCalls,
	"disk-full":       diskFull,
	"disk-slow":       diskSlow,
	"disk-torn":       diskTorn,
	"log-disk-full":   logDiskFull,
	"log-disks-full":  logDisksFull,
	"log-disk-hangs":  logDiskFrozen,
	"raft-disk-hangs": raftDiskFrozen,
	"registry-pauses": registryPauses,
	"registry-errors": registryErrors,
	"registry-hangs":  registryHangs,
	"registry-slow":   registrySlow,
	"slow-tags":       slowTags,
	"buildkit-killed": buildkitKilled,
	"buildkit-pauses": buildkitPauses,
}

// names returns the sorted names of all nemeses.
func names() []string { return slices.Sorted(maps.Keys(nemeses)) }

// possible returns the sorted names of the nemeses that have an effect with a profile of the load.
func possible(profile string) []string {
	if profile == verify.ProfileMixed || profile == verify.ProfileDockerfile {
		return names()
	}
	return slices.DeleteFunc(names(), func(n string) bool { return strings.HasPrefix(n, "buildkit-") })
}

func kill(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	victims[0].Kill()
	wait(ctx, s.Lasts)
}

func minority(victims []*harness.Node) []*harness.Node { return victims[:(len(victims)-1)/2] }

func killMinority(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	for _, n := range minority(victims) {
		n.Kill9()
	}
	for _, n := range minority(victims) {
		n.AwaitExit()
	}
	wait(ctx, s.Lasts)
}

// killAll simulates a power failure of the whole site.
func killAll(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	for _, n := range victims {
		n.Kill9()
	}
	for _, n := range victims {
		n.AwaitExit()
	}
	wait(ctx, s.Lasts/4)
}

// restartStorm kills and starts one node after the other. It does not wait until a node is ready.
func restartStorm(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	end := time.Now().Add(s.Lasts)
	for i := 0; time.Now().Before(end) && ctx.Err() == nil; i++ {
		n := victims[i%len(victims)]
		n.Kill()
		n.Launch()
		wait(ctx, time.Duration(float64(2*time.Second)*s.Amount))
	}
}

// stop ends a node gracefully.
func stop(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	victims[0].Stop()
	wait(ctx, s.Lasts/2)
}

func pause(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	for _, n := range minority(victims) {
		n.Signal(syscall.SIGSTOP)
	}
	wait(ctx, s.Lasts)
}

func clock(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	victims[0].Hurt(map[string]any{"clock_offset": time.Duration((s.Amount - 0.5) * float64(2*time.Minute))})
	wait(ctx, s.Lasts)
}

// drainedKilled drains one node and kills another one, so that only one node takes builds, and most
// logs have no second copy on it.
func drainedKilled(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.drained = append(w.drained, victims[1])
	draining, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := w.drain(draining, victims[1], victims[1], true); err != nil {
		w.t.Logf("drain %s: %v", victims[1].Name, err)
	}
	victims[0].Kill()
	wait(ctx, 2*s.Lasts)
}

// killPartition cuts a node off from the others, and kills it during the partition.
func killPartition(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.net.Part(w.hosts(victims[:1]), w.hosts(victims[1:]))
	wait(ctx, s.Lasts/2)
	victims[0].Kill()
	wait(ctx, s.Lasts/2)
}
