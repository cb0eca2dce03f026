//go:build faults

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/disks"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// segmentBytes is the size of the files of the replicated log in tests with small disks. A node
// accepts commands while two of them fit.
const segmentBytes = 4 << 20

// clusterOnDisks runs three nodes, each with its data on a small disk of its own.
func clusterOnDisks(t *testing.T, bytes int64, over harness.Config) (c *harness.Cluster, refs []string, on map[*harness.Node]*disks.Disk) {
	t.Helper()
	reg := registrytest.Start(t, registrytest.Options{Quiet: true})
	refs = harness.PushImages(t, reg, 20)
	c = harness.NewCluster(t, 3, reg.Addr, over)
	c.Override(harness.Config{
		"log":     map[string]any{"level": "info"},
		"history": map[string]any{"total": 100_000, "perRequester": 100_000},
		// Attempts that end with their node or disk do not fail a build.
		"builds": map[string]any{"uncountedAttempts": 1000, "retryBackoff": "100ms", "retryBackoffMax": "1s"},
	})
	on = map[*harness.Node]*disks.Disk{}
	for _, n := range c.Nodes {
		on[n] = disks.New(t, bytes)
		n.Override(harness.Config{"dataDir": filepath.Join(on[n].Path, "data")})
		n.Launch()
	}
	for _, n := range c.Nodes {
		n.AwaitReady()
	}
	return c, refs, on
}

// Test_Disks_Full fills the disks of one, two and three nodes while clients write, at last in steps
// of 4 KiB, and frees them again. Once a majority has room, writes go on, with SOAK within five
// seconds. No node is restarted, all stay live, and no acknowledged build is lost. With SOAK there are
// 30 rounds.
func Test_Disks_Full(t *testing.T) {
	c, refs, on := clusterOnDisks(t, 256<<20, harness.Config{"raft": map[string]any{"segmentBytes": segmentBytes, "snapshotThreshold": 1000, "snapshotInterval": "2s", "trailingLogs": 1000}})
	w := startWriters(t, c, refs)
	w.await(time.Minute, "builds are acknowledged")
	live := watchLive(t, c)
	const longest = 30 * time.Second
	var took []time.Duration
	for round := range testkit.InSoak(30, 3) {
		full := slices.Clone(c.Nodes)
		rand.Shuffle(len(full), func(i, k int) { full[i], full[k] = full[k], full[i] })
		full = full[:3-round%3]
		var fillers sync.WaitGroup
		for _, n := range full {
			fillers.Go(func() { fill(t, on[n]) })
		}
		fillers.Wait()
		for _, n := range full {
			if left := on[n].Free(); left > 0 {
				t.Logf("round %d: %s has %d bytes left", round, n.Name, left)
			}
		}
		before := w.count.Load()
		<-time.After(time.Duration(testkit.InSoak(2, 1)) * time.Second) // the fault: the disks are full
		t.Logf("round %d: with %d full disks %d builds were acknowledged", round, len(full), w.count.Load()-before)
		rand.Shuffle(len(full), func(i, k int) { full[i], full[k] = full[k], full[i] })
		for len(full) > 0 {
			room := len(c.Nodes) - len(full)
			if room >= 2 { // writes go on even while a node is full
				took = append(took, w.await(longest, fmt.Sprintf("round %d: builds are acknowledged while %d nodes have room", round, room)))
			}
			<-time.After(rand.N(time.Second)) // the fault: one after the other has room
			if err := free(on[full[0]], rand.IntN(2) == 0); err != nil {
				t.Fatal(err)
			}
			full = full[1:]
		}
		took = append(took, w.await(longest, fmt.Sprintf("round %d: builds are acknowledged once all nodes have room", round)))
		for _, n := range c.Nodes {
			on[n].Release()
		}
		harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
	}
	live()
	w.end()
	slices.Sort(took)
	if last := took[len(took)-1]; testkit.Soak() && last > 5*time.Second {
		t.Errorf("once a majority had room, it took %s until a build was acknowledged", last)
	}
	t.Logf("builds were acknowledged after %s at the median and %s at most, %d times", took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), len(took))
	harness.AwaitSameBuilds(t, c)
}

// fill fills a disk: quickly to somewhat more room than a node needs, and then in steps of one block
// until nothing is left.
func fill(t *testing.T, d *disks.Disk) {
	if err := d.Fill(2*segmentBytes + 64*disks.Block); err != nil {
		t.Errorf("fill %s: %v", d.Path, err)
	}
	for full := 0; full < 200; {
		switch err := d.FillBlock(); {
		case errors.Is(err, syscall.ENOSPC):
			full++ // the node may still free a block
			<-time.After(time.Millisecond)
		case err != nil:
			t.Errorf("fill %s: %v", d.Path, err)
			return
		}
	}
}

// free gives back all space that fill took, or so much that the replicated log has room, even after
// it has begun another file.
func free(d *disks.Disk, all bool) error {
	if all {
		d.Release()
		return nil
	}
	return d.Fill(3*segmentBytes + 1<<20)
}

// watchLive asks all nodes whether they are live, until the returned function is called. That also
// checks that no process has ended.
func watchLive(t *testing.T, c *harness.Cluster) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	pids := map[*harness.Node]int{}
	for _, n := range c.Nodes {
		pids[n] = n.Pid()
		watch.Go(func() {
			for ctx.Err() == nil {
				if body, code := n.Get("http://" + n.Health + "/live"); code != http.StatusOK {
					t.Errorf("%s is not live: %d %s", n.Name, code, body)
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	return func() {
		cancel()
		watch.Wait()
		for _, n := range c.Nodes {
			if !n.Alive() || n.Pid() != pids[n] {
				t.Errorf("the process of %s has ended", n.Name)
			}
		}
	}
}

// writers are clients that create builds and expect that some calls fail.
type writers struct {
	t             testing.TB
	c             *harness.Cluster
	count, failed atomic.Int64

	mu      sync.Mutex
	ids     map[string]bool
	reasons map[string]int // of failed calls

	stop    context.CancelFunc
	done    sync.WaitGroup
	clients []*client.Client
}

// startWriters runs six clients, each of which creates up to ten builds a second.
func startWriters(t testing.TB, c *harness.Cluster, refs []string) *writers {
	t.Helper()
	w := &writers{t: t, c: c, ids: map[string]bool{}, reasons: map[string]int{}}
	var ctx context.Context
	ctx, w.stop = context.WithCancel(t.Context())
	for i := range 6 {
		var o client.Options
		for k := range c.Nodes {
			o.Servers = append(o.Servers, c.Nodes[(i+k)%len(c.Nodes)].GRPC)
		}
		cl, err := client.New(o)
		if err != nil {
			t.Fatal(err)
		}
		w.clients = append(w.clients, cl)
		w.done.Go(func() {
			for ctx.Err() == nil {
				w.one(cl, refs[rand.IntN(len(refs))], fmt.Sprint("r", i))
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	return w
}

func (w *writers) one(cl *client.Client, ref, who string) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	res, err := cl.Build(ctx, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(ref), Force: true, Requester: who})
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed.Add(1)
		w.reasons[err.Error()]++
		return
	}
	w.ids[res.Build.Id] = true
	w.count.Add(1)
}

// await waits until further builds are acknowledged, and returns how long that took.
func (w *writers) await(longest time.Duration, what string) time.Duration {
	w.t.Helper()
	// A call that was acknowledged before may be counted only now, at most once for each client.
	begin, before := time.Now(), w.count.Load()
	defer func() { // Eventually ends the test
		if w.count.Load() <= before {
			w.report()
		}
	}()
	testkit.Eventually(w.t, longest, what, func() bool { return w.count.Load() > before })
	return time.Since(begin)
}

// report logs what each node and the clients say, and writes the stacks of the nodes to their logs.
func (w *writers) report() {
	for _, n := range w.c.Running() {
		res, err := n.Members(w.t.Context(), true)
		w.t.Logf("%s: %v %v", n.Name, res, err)
	}
	for _, n := range w.c.Running() {
		n.Signal(syscall.SIGQUIT)
		<-n.Exited()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for reason, n := range w.reasons {
		w.t.Logf("%d calls failed: %s", n, strings.TrimSpace(reason))
	}
}

// end stops the clients, and checks that every acknowledged build succeeds.
func (w *writers) end() {
	w.t.Helper()
	w.stop()
	w.done.Wait()
	for _, cl := range w.clients {
		_ = cl.Close()
	}
	ctx := testkit.Context(w.t, 5*time.Minute)
	for id := range w.ids {
		if b := w.c.Running()[0].Wait(w.t, ctx, id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			w.t.Errorf("acknowledged build %s is %s: %s", id, b.GetPhase(), b.GetMessage())
		}
	}
	w.t.Logf("%d builds were acknowledged, %d calls failed", len(w.ids), w.failed.Load())
}
