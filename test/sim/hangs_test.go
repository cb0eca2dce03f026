package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

const (
	// endLimit is how long after its deadline, or after a cancel, a build may be without an end. It
	// counts from the moment at which the replicated logs of a majority can be written.
	endLimit = 15 * time.Second
	// frozenFor is how long a disk hangs.
	frozenFor = time.Minute
)

// trouble is a fault of one machine that does not end the cluster. begin returns the function that
// ends the fault, and votes reports whether the node can write its replicated log meanwhile.
type trouble struct {
	votes bool
	begin func(w *world, n *machine) (end func())
}

var troubles = map[string]trouble{
	"drained": {true, func(w *world, n *machine) func() {
		w.propose(&buildsv1.DrainNode{Name: n.name, Drained: true})
		return func() { w.propose(&buildsv1.DrainNode{Name: n.name}) }
	}},
	"killed": {false, func(_ *world, n *machine) func() {
		ended := make(chan struct{})
		go func() { // no message leaves the process any more, but its end takes a while
			defer close(ended)
			n.crash()
		}()
		return func() { <-ended; n.start() }
	}},
	"log disk frozen":  {true, func(_ *world, n *machine) func() { return n.disk.hang() }},
	"raft disk frozen": {false, func(_ *world, n *machine) func() { return n.raftDisk.Hang() }},
	"log disk full": {true, func(_ *world, n *machine) func() {
		n.disk.setFull(true)
		return func() { n.disk.setFull(false) }
	}},
}

// Test_TroublesInPairs: two of three nodes have a fault while builds run and are published. Every
// build ends within endLimit after its deadline or its cancel. With the race detector both nodes have
// the same fault: `make test` runs all pairs without it.
func Test_TroublesInPairs(t *testing.T) {
	var names []string
	for name := range troubles {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, a := range names {
		for _, b := range names {
			if testkit.Race && a != b {
				continue
			}
			t.Run(strings.ReplaceAll(a+" leader, "+b+" follower", " ", "-"), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, 1, 3)
					for _, err := range w.pair(troubles[a], troubles[b]) {
						t.Error(err)
					}
					for _, n := range w.nodes {
						n.crash()
					}
					wait(context.Background(), 30*time.Second)
				})
			})
		}
	}
}

// pair runs builds while the leader and a follower have faults. It returns what was wrong.
func (w *world) pair(ofLeader, ofFollower trouble) (errs []error) {
	for _, n := range w.nodes {
		n.start()
	}
	ctx := context.Background()
	wait(ctx, 5*time.Second)
	lead, others := w.awaitLeader()
	for lead.alive().store().View().Level() < builds.RevokeLevel {
		wait(ctx, 100*time.Millisecond)
	}
	healthy := others[1]
	var tested []testedBuild
	begin := func(kind string, n int, timeout time.Duration, cancel bool) {
		for i := range n {
			req := buildRequest(fmt.Sprintf("%s%d", kind, i), kind+fmt.Sprint(i))
			req.Timeout = durationpb.New(timeout)
			res, err := healthy.alive().api().BuildImage(ctx, req)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			w.acknowledge(res.Build.Id)
			tested = append(tested, testedBuild{res.Build.Id, kind, time.Now().Add(timeout), cancel})
		}
	}
	// The builds that are published wait for the registry until their deadline.
	w.mu.Lock()
	w.slow = make(chan struct{})
	w.mu.Unlock()
	w.workloads.lasting = time.Second
	begin("pushing", 3, 30*time.Second, false)
	wait(ctx, 3*time.Second)
	w.workloads.lasting = 5 * time.Minute
	begin("running", 6, 25*time.Second, false)
	begin("cancelled", 6, time.Hour, true)
	wait(ctx, 2*time.Second)
	begin("young", 3, time.Hour, true)

	var readers sync.WaitGroup
	reading, stop := context.WithCancel(ctx)
	for range 2 {
		readers.Go(func() { w.reader(reading) })
	}
	works := time.Now()                         // when a majority can write its replicated log
	endSecond := ofFollower.begin(w, others[0]) // first, because a drain needs a leader
	endFirst := ofLeader.begin(w, lead)
	if !ofLeader.votes && !ofFollower.votes {
		works = works.Add(frozenFor)
	}
	time.AfterFunc(frozenFor, func() { endFirst(); endSecond() })
	var cancels sync.WaitGroup
	for _, b := range tested {
		if b.cancel {
			cancels.Go(func() { w.cancelUntilAccepted(ctx, healthy, b.id) })
		}
	}
	for _, b := range tested {
		if b.cancel {
			b.due = works
		}
		if b.due.Before(works) {
			b.due = works
		}
		wait(ctx, time.Until(b.due.Add(endLimit)))
		if got := healthy.alive().store().Build(b.id).GetBuild(); !builds.Terminal(got.GetPhase()) {
			a := builds.LastAttempt(got)
			errs = append(errs, fmt.Errorf("%s build %s is %s %s after it was due: attempt %d is on %s, with the log %v", b.kind, b.id, got.GetPhase(), endLimit, a.GetNumber(), a.GetOwner(), a.GetLog()))
		}
	}
	cancels.Wait()
	close(w.slow)
	wait(ctx, frozenFor+time.Second)
	stop()
	readers.Wait()
	if len(errs) > 0 {
		return errs
	}
	w.awaitBuildsEnded(ctx)
	if err := w.checkLogs(ctx); err != nil {
		errs = append(errs, err)
	}
	if err := w.checkPods(ctx); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// testedBuild is a build that must end in time.
type testedBuild struct {
	id, kind string
	due      time.Time
	cancel   bool
}

// cancelUntilAccepted cancels a build through one node, until the service has accepted it.
func (w *world) cancelUntilAccepted(ctx context.Context, n *machine, id string) {
	for {
		call, done := context.WithTimeout(ctx, 3*time.Second)
		_, err := n.alive().api().CancelBuild(call, &imagebuilderv1.CancelBuildRequest{Id: id, Requester: "c"})
		done()
		if status.Code(err) == codes.OK || status.Code(err) == codes.FailedPrecondition {
			return
		}
		wait(ctx, 100*time.Millisecond)
	}
}

// hungLogDisk hangs the disk under the logs of a node that runs builds.
func hungLogDisk(w *world) error {
	return w.hung(func(n *machine) (works func()) { return n.disk.hang() }, "a write of a log of a build")
}

// hungRaftDisk hangs the disk under the replicated log of a follower that runs builds.
func hungRaftDisk(w *world) error {
	return w.hung(func(n *machine) (works func()) { return n.raftDisk.Hang() }, "a write of the replicated log")
}

// hung hangs a disk of a follower, which responds to pings and heartbeats. The leader must take the
// node for lost once, and its attempts must continue elsewhere. The node must come back when its disk
// works again, not before.
func (w *world) hung(hang func(*machine) (works func()), what string) error {
	ctx := context.Background()
	w.workloads.lasting = 10 * time.Minute
	lead, others := w.awaitLeader()
	for lead.alive().store().View().Level() < builds.RevokeLevel {
		wait(ctx, 100*time.Millisecond)
	}
	n := others[0]
	for i := range 9 {
		res, err := lead.alive().api().BuildImage(ctx, buildRequest(fmt.Sprint("a", i), fmt.Sprint(i)))
		if err != nil {
			return err
		}
		w.acknowledge(res.Build.Id)
	}
	wait(ctx, 3*time.Second)
	owned := func() (n int) {
		lead.alive().store().View().Live(func(r *buildsv1.Record) bool {
			if builds.LastAttempt(r.Build).Owner == others[0].name {
				n++
			}
			return true
		})
		return n
	}
	if owned() == 0 {
		return fmt.Errorf("%s runs no build: the scenario proves nothing", n.name)
	}
	const lost = "a node is lost: its attempts are ended"
	before := w.times(lost)
	works := hang(n)
	res, err := lead.alive().api().BuildImage(ctx, buildRequest("written", "written")) // a disk without writes does not hang
	if err != nil {
		works()
		return err
	}
	w.acknowledge(res.Build.Id)
	wait(ctx, lease+grace+4*time.Second)
	if stall := lead.alive().cluster().Peer(n.name, n.alive().cluster().StoreID()).Stall; !strings.Contains(stall.String(), what) {
		works()
		return fmt.Errorf("the leader sees %q, want %q", stall, what)
	}
	if left := owned(); left > 0 {
		works()
		return fmt.Errorf("%d builds still run on %s, whose disk hangs", left, n.name)
	}
	wait(ctx, 20*time.Second)
	if times := w.times(lost) - before; times != 1 {
		works()
		return fmt.Errorf("%s was lost %d times while its disk hung, want once", n.name, times)
	}
	works()
	wait(ctx, 10*time.Second)
	if lead.alive().store().View().Node(n.name).GetLost() {
		return fmt.Errorf("%s is still lost 10 s after its disk works again", n.name)
	}
	return nil
}
