//go:build faults

package sim

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Divergences changes a field of the state of a random node, the leader included, many times
// (a hundred in `make soak`). The commands of two checkpoints later a leader has found each change,
// and the node replaces its state by that of the others.
func Test_Divergences(t *testing.T) {
	// A node takes no checkpoint at the first end of a block after its start.
	const commandsOfTwoCheckpoints = 3 * 256
	changes := testkit.InSoak(100, 25)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		for _, n := range w.nodes {
			n.start()
		}
		w.awaitLeader()
		w.propose(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: "docker.io/library/cached:1"}})
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		w.client(ctx, "c") // builds and request ids
		cancel()
		leaders := 0
		for i := range changes {
			n := w.nodes[w.intn(len(w.nodes))]
			if n.alive().cluster().Repairs() > 0 { // a new process may replace its state again
				n.crash()
				n.start()
				wait(context.Background(), 10*time.Second)
			}
			w.awaitLeader()
			r, before := n.alive(), w.times(differentState)
			if r.leads() {
				leaders++
			}
			r.store().Diverge(i)
			w.commands(commandsOfTwoCheckpoints)
			if !within(10*time.Second, func() bool { return w.times(differentState) > before }) {
				t.Fatalf("change %d of %s is not found", i, n.name)
			}
			if !within(30*time.Second, func() bool { return r.cluster().Repairs() == 1 && r.cluster().Diverged() == nil }) {
				t.Fatalf("change %d: %s does not replace its state: %v", i, n.name, r.cluster().Diverged())
			}
			w.commands(1)
			if !within(10*time.Second, w.statesAreEqual) {
				t.Fatalf("change %d of %s: the states differ still", i, n.name)
			}
		}
		if n := w.times(unclearState); n > 0 {
			t.Errorf("the majority was unclear %d times", n)
		}
		t.Logf("%d changes, %d of them on the leader: all were found and undone", changes, leaders)
		for _, n := range w.nodes {
			n.crash()
		}
		wait(context.Background(), 30*time.Second)
	})
}

// Test_Divergence_Lasting changes the state of a node again after each replacement. After the third
// one the node gives up: it refuses clients for good, and the leader names it.
func Test_Divergence_Lasting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 3)
		for _, n := range w.nodes {
			n.start()
		}
		_, others := w.awaitLeader()
		r := others[0].alive()
		// A node that registers after the change would overwrite it.
		registered := func() (n int) {
			r.store().View().Nodes(func(*buildsv1.Node) bool { n++; return true })
			return n
		}
		if !within(30*time.Second, func() bool { return registered() == len(w.nodes) }) {
			t.Fatal("the nodes do not register")
		}
		for i := uint64(1); i <= 4; i++ {
			r.store().Diverge(3)
			w.commands(3 * 256)
			if !within(30*time.Second, func() bool { return r.cluster().Repairs() == min(i, 3) && (r.cluster().Diverged() == nil) == (i < 4) }) {
				t.Fatalf("after change %d the state was replaced %d times: %v", i, r.cluster().Repairs(), r.cluster().Diverged())
			}
		}
		wait(context.Background(), 5*time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := r.api().ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{Linearizable: true})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "differs again after 3 replacements") {
			t.Errorf("the node responds with %v", err)
		}
		lead, _ := w.awaitLeader()
		if d := lead.alive().cluster().Divergence(); len(d.Wrong) != 1 || d.Wrong[0] != others[0].name {
			t.Errorf("the leader reports %+v", d)
		}
		for _, m := range lead.alive().cluster().Members() {
			if wrong := m.Name == others[0].name; wrong != m.Answer.GetRefusesBuilds() || wrong != (m.Answer.GetTrouble() != "") {
				t.Errorf("%s reports the problem %q", m.Name, m.Answer.GetTrouble())
			}
		}
		for _, n := range w.nodes {
			n.crash()
		}
		wait(context.Background(), 30*time.Second)
	})
}

// commands commits n commands that change no builds.
func (w *world) commands(n int) {
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for range min(n, 64) {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				w.propose(&buildsv1.Reap{})
			}
		})
	}
	all.Wait()
}

// within waits until a condition holds, at most for d.
func within(d time.Duration, holds func() bool) bool {
	for end := time.Now().Add(d); !holds(); {
		if time.Now().After(end) {
			return false
		}
		wait(context.Background(), 50*time.Millisecond)
	}
	return true
}

// statesAreEqual reports whether all nodes have the same state now.
func (w *world) statesAreEqual() bool {
	var first []byte
	for _, n := range w.nodes {
		r := n.alive()
		if r == nil {
			return false
		}
		dump := buildstest.Dump(w.t, r.store())
		if first == nil {
			first = dump
		}
		if !bytes.Equal(first, dump) {
			return false
		}
	}
	return true
}
