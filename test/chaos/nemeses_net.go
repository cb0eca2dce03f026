//go:build faults

package chaos

import (
	"context"
	"net"
	"time"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/netns"
)

func partition(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	cut := len(minority(victims))
	w.net.Part(w.hosts(victims[:cut]), w.hosts(victims[cut:]))
	wait(ctx, s.Lasts)
}

// oneWay drops all packets from the other nodes to one node.
func oneWay(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	h := w.host(victims[0])
	h.Deaf(w.net.Others(h)...)
	wait(ctx, s.Lasts)
}

// bridge cuts two nodes off from each other. Both still reach all other nodes.
func bridge(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.net.Part([]*netns.Host{w.host(victims[0])}, []*netns.Host{w.host(victims[1])})
	wait(ctx, s.Lasts)
}

// hostLost drops all packets of a host, including those of clients and of the registry.
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

// lateCalls makes the calls of a node to the others arrive late. Their connections break meanwhile, so
// that the node repeats the calls, and the late ones arrive after those.
func lateCalls(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	from := w.host(victims[0])
	var all []*lateProxy
	for _, to := range w.net.Others(from) {
		p, err := newLateProxy(w.net.Gateway, net.JoinHostPort(to.IP, peerPort), time.Duration(s.Amount*float64(4*time.Second)))
		if err != nil {
			w.t.Error(err)
			continue
		}
		from.Redirect(to, peerPort, p.addr)
		all = append(all, p)
	}
	wait(ctx, 2*s.Lasts)
	for _, p := range all {
		p.close()
	}
}

// delay delays the messages of a node to the others by up to a quarter of a second.
func delay(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	slow := map[string]time.Duration{}
	for _, n := range victims[1:] {
		slow[n.Name] = time.Duration(float64(250*time.Millisecond) * s.Amount)
	}
	victims[0].Hurt(map[string]any{"delay": slow})
	wait(ctx, s.Lasts)
}
