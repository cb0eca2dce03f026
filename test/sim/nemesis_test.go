package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// nemesis injects faults until ctx ends, one after the other, each in a minority of the machines,
// and heals each of them. At the end all machines run without faults.
func (w *world) nemesis(ctx context.Context) {
	names := func(machines []*machine) (out []string) {
		for _, n := range machines {
			out = append(out, n.name)
		}
		return out
	}
	for wait(ctx, time.Duration(1000+w.intn(8000))*time.Millisecond) {
		machines := slices.Clone(w.nodes)
		w.mu.Lock()
		w.rand.Shuffle(len(machines), func(i, j int) { machines[i], machines[j] = machines[j], machines[i] })
		w.mu.Unlock()
		if w.intn(2) == 0 { // half of the faults hit the leader
			slices.SortStableFunc(machines, func(a, b *machine) int {
				lead := func(n *machine) int {
					if r := n.alive(); r != nil && r.cluster().Leads() {
						return 0
					}
					return 1
				}
				return lead(a) - lead(b)
			})
		}
		minority := machines[:1+w.intn((len(machines)-1)/2)]
		duration := time.Duration(500+w.intn(15000)) * time.Millisecond
		switch what := w.intn(17); what {
		case 0, 1:
			w.log("crash %v for %s", names(minority), duration)
			for _, n := range minority {
				n.crash()
			}
			if w.intn(2) == 0 {
				w.log("cut the power of %v", names(minority))
				for _, n := range minority {
					n.disk.powerLoss()
					n.raftDisk.PowerLoss(w.intn)
				}
			}
			wait(ctx, duration)
			for _, n := range minority {
				n.start()
			}
		case 8, 9:
			w.log("shut down and restart %s", machines[0].name)
			machines[0].shutDown()
			wait(ctx, duration/4)
			machines[0].start()
		case 2:
			w.log("separate %v for %s", names(minority), duration)
			w.hub.Part(names(minority), names(machines[len(minority):]))
			wait(ctx, duration)
		case 3:
			w.log("pause %v for %s", names(minority), duration)
			for _, n := range minority {
				w.hub.Pause(n.name)
			}
			wait(ctx, duration)
		case 4:
			w.log("%s receives nothing from %s for %s", machines[0].name, machines[1].name, duration)
			w.hub.Cut(machines[1].name, machines[0].name)
			wait(ctx, duration)
		case 5:
			w.log("drop messages for %s", duration)
			w.hub.Lose(float64(w.intn(30)) / 100)
			wait(ctx, duration)
		case 6:
			offset := time.Duration(w.intn(16000)-8000) * time.Millisecond
			machines[0].offset.Store(int64(offset))
			w.log("move the clock of %s by %s", machines[0].name, offset)
		case 7:
			if r := machines[0].alive(); r != nil {
				w.log("transfer leadership")
				tctx, cancel := context.WithTimeout(ctx, time.Second)
				_ = r.cluster().TransferLeadership(tctx, "")
				cancel()
			}
		case 10:
			w.damageLogs()
		case 11, 12:
			w.stopLeader(ctx)
		case 13, 14, 15, 16:
			name := []string{"log disk frozen", "raft disk frozen", "log disk full", "drained"}[what-13]
			w.log("%s: %v for %s", name, names(minority), duration)
			var ends []func()
			for _, n := range minority {
				ends = append(ends, troubles[name].begin(w, n))
			}
			wait(ctx, duration)
			for _, end := range ends {
				end()
			}
			w.count("a disk hung or was full, or a node was drained")
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

// damageLogs damages copies of complete logs on the first machine, and only copies of logs that
// another node holds as well, so that no log is lost.
func (w *world) damageLogs() {
	n := w.nodes[0]
	r := n.alive()
	if r == nil {
		return
	}
	damaged := 0
	r.store().View().All(func(rec *buildsv1.Record) bool {
		for _, a := range rec.Build.Attempts {
			if a.Log.GetState() != builds.LogSealed || len(a.Log.Copies) < 2 || w.intn(3) > 0 {
				continue
			}
			if n.disk.damage(fmt.Sprintf("%s.%d.", rec.Build.Id, a.Number), w.intn) {
				damaged++
			}
		}
		return true
	})
	w.log("damage %d logs of %s", damaged, n.name)
	if damaged > 0 {
		w.count("copies of complete logs were damaged")
	}
}
