package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// nemesis hurts the cluster until ctx ends, never more than a minority at a
// time, and heals it.
func (w *world) nemesis(ctx context.Context) {
	names := func(ns []*machine) (out []string) {
		for _, n := range ns {
			out = append(out, n.name)
		}
		return out
	}
	for wait(ctx, time.Duration(1000+w.n(8000))*time.Millisecond) {
		ns := slices.Clone(w.nodes)
		w.mu.Lock()
		w.rand.Shuffle(len(ns), func(i, j int) { ns[i], ns[j] = ns[j], ns[i] })
		w.mu.Unlock()
		if w.n(2) == 0 { // the leader first
			slices.SortStableFunc(ns, func(a, b *machine) int {
				lead := func(n *machine) int {
					if r := n.alive(); r != nil && r.cluster().Leads() {
						return 0
					}
					return 1
				}
				return lead(a) - lead(b)
			})
		}
		minority := ns[:1+w.n((len(ns)-1)/2)]
		last := time.Duration(500+w.n(15000)) * time.Millisecond
		switch what := w.n(11); what {
		case 0, 1:
			w.log("crash %v for %s", names(minority), last)
			for _, n := range minority {
				n.crash()
			}
			if w.n(2) == 0 {
				w.log("the power of %v fails", names(minority))
				for _, n := range minority {
					n.disk.powerLoss()
					n.raftDisk.PowerLoss(w.n)
				}
			}
			wait(ctx, last)
			for _, n := range minority {
				n.start()
			}
		case 8, 9:
			w.log("restart %s in order", ns[0].name)
			ns[0].stopInOrder()
			wait(ctx, last/4)
			ns[0].start()
		case 2:
			w.log("part %v for %s", names(minority), last)
			w.hub.Part(names(minority), names(ns[len(minority):]))
			wait(ctx, last)
		case 3:
			w.log("pause %v for %s", names(minority), last)
			for _, n := range minority {
				w.hub.Pause(n.name)
			}
			wait(ctx, last)
		case 4:
			w.log("%s does not hear %s for %s", ns[0].name, ns[1].name, last)
			w.hub.Cut(ns[1].name, ns[0].name)
			wait(ctx, last)
		case 5:
			w.log("lose messages for %s", last)
			w.hub.Lose(float64(w.n(30)) / 100)
			wait(ctx, last)
		case 6:
			off := time.Duration(w.n(16000)-8000) * time.Millisecond
			ns[0].offset.Store(int64(off))
			w.log("the clock of %s is off by %s", ns[0].name, off)
		case 7:
			if r := ns[0].alive(); r != nil {
				w.log("transfer leadership")
				tctx, cancel := context.WithTimeout(ctx, time.Second)
				_ = r.cluster().TransferLeadership(tctx, "")
				cancel()
			}
		case 10:
			w.damageLogs()
		}
		w.hub.Heal()
	}
	w.hub.Heal()
	for _, n := range w.nodes {
		n.offset.Store(0)
		if n.alive() == nil {
			n.start()
		}
	}
}

// damageLogs hurts copies of complete logs: always those of one and the same node,
// and only where another node has one.
func (w *world) damageLogs() {
	n := w.nodes[0]
	r := n.alive()
	if r == nil {
		return
	}
	hurt := 0
	r.store().View().All(func(rec *buildsv1.Record) bool {
		for _, a := range rec.Build.Attempts {
			if a.Log.GetState() != builds.LogSealed || len(a.Log.Copies) < 2 || w.n(3) > 0 {
				continue
			}
			if n.disk.damage(fmt.Sprintf("%s.%d.", rec.Build.Id, a.Number), w.n) {
				hurt++
			}
		}
		return true
	})
	w.log("damage %d logs of %s", hurt, n.name)
	if hurt > 0 {
		w.seen("copies of complete logs were damaged")
	}
}
