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

// A nemesis breaks something for as long as the step lasts. What it leaves
// broken is healed for it.
type nemesis func(ctx context.Context, w *world, victims []*harness.Node, s Step)

// nemeses are all of them, by name. Each hurts a minority of the nodes, or
// leaves all disks as they are.
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
	"disk-full":       diskFull,
	"disk-slow":       diskSlow,
	"disk-torn":       diskTorn,
	"log-disk-full":   logDiskFull,
	"registry-pauses": registryPauses,
	"registry-errors": registryErrors,
	"registry-hangs":  registryHangs,
	"registry-slow":   registrySlow,
	"buildkit-killed": buildkitKilled,
	"buildkit-pauses": buildkitPauses,
}

// names are the nemeses in order.
func names() []string { return slices.Sorted(maps.Keys(nemeses)) }

// possible are the nemeses that can hurt a cluster that builds what the profile
// says, in order.
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

// killAll is a power failure of the whole site.
func killAll(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	for _, n := range victims {
		n.Kill9()
	}
	for _, n := range victims {
		n.AwaitExit()
	}
	wait(ctx, s.Lasts/4)
}

// restartStorm kills one after the other, each as soon as the one before it
// runs again, ready or not.
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

// killPartition parts a node from the others and kills it there.
func killPartition(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.net.Part(w.hosts(victims[:1]), w.hosts(victims[1:]))
	wait(ctx, s.Lasts/2)
	victims[0].Kill()
	wait(ctx, s.Lasts/2)
}
