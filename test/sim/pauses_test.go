package sim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/verify/history"
)

var pausesFlag = flag.Int("sim.pauses", 40, "number of pauses of the leader in Test_Pauses")

// heartbeats is longer than the time between two heartbeats of a leader to one follower.
const heartbeats = 250 * time.Millisecond

// States that pauses of the leader reach.
const (
	replaced  = "a leader was stopped and replaced"
	staleRead = "stale reads and lists on a leader that was stopped"
)

// takeOver stops the leader as SIGSTOP does while the responses to its messages are on their way,
// and makes another node the leader. The former leader still believes that it leads. Its clock
// continues, unlike that of a stopped process, so the pause must end before its lease.
func (w *world) takeOver(ctx context.Context) (former, next *machine, err error) {
	former, others := w.leader()
	if former == nil {
		return nil, nil, errors.New("there is no leader")
	}
	next = others[w.intn(len(others))]
	r := next.alive()
	if r == nil {
		return nil, nil, errors.New("the other node does not run")
	}
	w.hub.Hold(former.name)
	wait(ctx, heartbeats)
	r.net.Elect()
	for range 100 {
		wait(ctx, time.Millisecond)
		if r.leads() {
			return former, next, nil
		}
	}
	return nil, nil, errors.New("no other node leads")
}

// believes reports whether the former leader still believes that it leads.
func (n *machine) believes() bool {
	r := n.alive()
	return r != nil && r.leads()
}

// oldAnswers reads linearizably on a leader that was stopped, and finds old responses of a follower
// when it continues, but no message of the new leader.
func oldAnswers(w *world) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	former, next, err := w.takeOver(ctx)
	if err != nil {
		return err
	}
	if !former.alive().node.ConfirmsReads() {
		return errors.New("the cluster is below the feature level of Confirm: the scenario proves nothing")
	}
	res, err := next.alive().api().BuildImage(ctx, buildRequest("a", "1"))
	if err != nil {
		return fmt.Errorf("create a build through the new leader: %w", err)
	}
	w.acknowledge(res.Build.Id)
	if !former.believes() {
		return errors.New("the former leader knows that it was deposed: the scenario proves nothing")
	}
	judge := w.queueReads(ctx, former, 300*time.Millisecond)
	w.hub.Cut(next.name, former.name)
	w.hub.Resume(former.name)
	return errors.Join(judge()...)
}

// queueReads begins reads and lists on a machine. judge waits for them, and returns an error for
// each that lacks a build that was acknowledged before.
func (w *world) queueReads(ctx context.Context, n *machine, timeout time.Duration) (judge func() []error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	var all sync.WaitGroup
	var mu sync.Mutex
	var found []error
	r, acked := n.alive(), w.acknowledged()
	if r == nil || len(acked) == 0 {
		return func() []error { cancel(); return nil }
	}
	report := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		found = append(found, err)
	}
	for i := range 4 {
		all.Go(func() {
			if i%2 == 0 {
				if err := w.judgedList(ctx, r); err != nil {
					report(err)
				}
				return
			}
			// Each reader is a client of its own, because its calls overlap those of the others.
			op := history.Operation{Kind: history.Read, ID: acked[len(acked)-1], Linearizable: true}
			if w.read(ctx, r, fmt.Sprintf("pause%d", w.intn(1<<40)), op) == lacked {
				report(fmt.Errorf("a linearizable read on %s lacks the acknowledged build %s", n.name, op.ID))
			}
		})
	}
	return func() []error { defer cancel(); all.Wait(); return found }
}

// acknowledge records that a build was acknowledged.
func (w *world) acknowledge(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.acked[id] {
		w.acked[id], w.ids = true, append(w.ids, id)
	}
}

// stopLeader stops the leader for up to two seconds, lets another node lead, and reads on the
// former leader: calls that wait when it continues, and calls that come soon after.
func (w *world) stopLeader(ctx context.Context) {
	former, _, err := w.takeOver(ctx)
	if err != nil {
		w.log("cannot stop the leader: %v", err)
		w.hub.Heal()
		return
	}
	duration := time.Duration(w.intn(500)) * time.Millisecond
	if w.intn(4) == 0 { // it learns by its lease that it does not lead
		duration = time.Second + time.Duration(w.intn(1000))*time.Millisecond
	}
	w.log("stop the leader %s for %s", former.name, duration+heartbeats)
	wait(ctx, duration)
	if former.believes() {
		w.count(replaced)
	}
	judges := []func() []error{w.queueReads(ctx, former, time.Second)}
	wait(ctx, time.Duration(w.intn(2))*time.Millisecond)
	w.hub.Resume(former.name)
	for range 3 {
		wait(ctx, time.Duration(w.intn(1500))*time.Microsecond)
		judges = append(judges, w.queueReads(ctx, former, time.Second))
	}
	for _, judge := range judges {
		for _, err := range judge() {
			w.t.Errorf("seed %d: after %s, a leader that was stopped: %v", w.seed, time.Since(w.startedAt), err)
			w.count(staleRead)
		}
	}
}

// Test_Pauses stops the leader -sim.pauses times, in clusters of three nodes. Clients create builds
// meanwhile. No read or list on the former leader is stale.
func Test_Pauses(t *testing.T) {
	const each = 20 // pauses of one cluster, so that its lists stay short
	begin := time.Now()
	var counts coverage
	t.Cleanup(func() {
		t.Logf("%d pauses in %s", *pausesFlag, time.Since(begin).Round(time.Millisecond))
		for _, what := range []string{replaced, "a linearizable list was read", staleRead} {
			t.Logf("%8d  %s", counts.counts[what], what)
		}
	})
	for seed := range uint64(max(1, *pausesFlag/each)) {
		t.Run(fmt.Sprintf("seed=%d", seed+1), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := pauses(t, seed+1, each)
				counts.add(t.Name(), w.reached)
			})
		})
	}
}

// pauses stops the leader of a cluster of three nodes again and again.
func pauses(t testing.TB, seed uint64, count int) *world {
	w := newWorld(t, seed, 3)
	for _, n := range w.nodes {
		n.start()
	}
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for i := range 2 {
		clients.Go(func() { w.creates(ctx, fmt.Sprintf("c%d", i)) })
	}
	for range count {
		wait(ctx, time.Second)
		w.awaitLeader()
		w.stopLeader(ctx)
	}
	stop()
	clients.Wait()
	w.awaitBuildsEnded(context.Background())
	for _, n := range w.nodes {
		n.crash()
	}
	wait(context.Background(), 30*time.Second)
	if err := history.Check(w.rec.History()); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	return w
}

// creates creates builds through the leader until ctx ends.
func (w *world) creates(ctx context.Context, name string) {
	for wait(ctx, time.Duration(50+w.intn(400))*time.Millisecond) {
		nodes := slices.Clone(w.nodes)
		at := w.intn(len(nodes))
		for _, n := range append(nodes[at:], nodes[:at]...) {
			r := n.alive()
			if r == nil || !r.leads() {
				continue
			}
			call, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			w.create(call, r, name, history.Operation{
				Kind: history.Create, Ref: fmt.Sprintf("image-%d", w.intn(1<<30)), Requester: name,
				RequestID: fmt.Sprintf("%s-%d", name, w.intn(1<<30)), Force: true,
			})
			cancel()
		}
	}
}
