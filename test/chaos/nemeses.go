//go:build faults

package chaos

import (
	"context"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/netns"
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
	"disk-full":       diskFull,
	"disk-slow":       diskSlow,
	"registry-pauses": registryPauses,
	"kill-partition":  killPartition,
}

// names are the nemeses in order.
func names() []string { return slices.Sorted(maps.Keys(nemeses)) }

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

func partition(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	cut := len(minority(victims))
	w.net.Part(w.hosts(victims[:cut]), w.hosts(victims[cut:]))
	wait(ctx, s.Lasts)
}

// oneWay makes one node deaf to the others.
func oneWay(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	h := w.host(victims[0])
	h.Deaf(w.net.Others(h)...)
	wait(ctx, s.Lasts)
}

// bridge parts two nodes that both still see all others.
func bridge(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.net.Part([]*netns.Host{w.host(victims[0])}, []*netns.Host{w.host(victims[1])})
	wait(ctx, s.Lasts)
}

// hostLost loses all packets, those of clients and of the registry included.
func hostLost(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.host(victims[0]).Vanish()
	wait(ctx, s.Lasts)
}

func loss(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	for _, n := range victims {
		w.host(n).Lossy(0.01 + 0.14*s.Amount)
	}
	wait(ctx, s.Lasts)
}

func slowNetwork(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.host(victims[0]).Slow(200 + int(20000*s.Amount))
	wait(ctx, s.Lasts)
}

// delay delays what a node says to the others, up to a quarter of a second.
func delay(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	slow := map[string]time.Duration{}
	for _, n := range victims[1:] {
		slow[n.Name] = time.Duration(float64(250*time.Millisecond) * s.Amount)
	}
	victims[0].Hurt(map[string]any{"delay": slow})
	wait(ctx, s.Lasts)
}

func clock(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	victims[0].Hurt(map[string]any{"clock_offset": time.Duration((s.Amount - 0.5) * float64(2*time.Minute))})
	wait(ctx, s.Lasts)
}

func diskFull(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	victims[0].Hurt(map[string]any{"disk_full": true})
	wait(ctx, s.Lasts)
}

func diskSlow(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	victims[0].Hurt(map[string]any{"disk_delay": time.Duration(float64(time.Second) * s.Amount)})
	wait(ctx, s.Lasts)
}

func registryPauses(ctx context.Context, w *world, _ []*harness.Node, s Step) {
	w.reg.Signal(syscall.SIGSTOP)
	wait(ctx, s.Lasts/2)
}

// killPartition parts a node from the others and kills it there.
func killPartition(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.net.Part(w.hosts(victims[:1]), w.hosts(victims[1:]))
	wait(ctx, s.Lasts/2)
	victims[0].Kill()
	wait(ctx, s.Lasts/2)
}
