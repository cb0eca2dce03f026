//go:build faults

package chaos

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/netns"
)

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
