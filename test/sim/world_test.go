package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds/secrets"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	"github.com/image-builder-ha/image-builder/node"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/refcache"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// world is one simulated cluster with its clients and workloads.
type world struct {
	t         testing.TB
	seed      uint64
	rand      *rand.Rand
	hub       *clustertest.Hub
	nodes     []*machine
	rec       *history.Recorder
	startedAt time.Time
	keys      string // file of the sealing keys of all nodes

	// interval is the interval of refreshes; that of the default configuration if zero.
	interval time.Duration
	// refresh resolves a cached reference on a node. If nil, the world has no cached references.
	refresh func(ctx context.Context, node, ref string) (refcache.Refreshed, error)

	workloads *workloads
	observed  observedLogs

	mu      sync.Mutex
	acked   map[string]bool // ids of acknowledged builds
	ids     []string        // the same, in order of acknowledgement
	ended   map[string]bool // ids of builds that a client has seen ended
	reached map[string]int  // states, with how often they were reached

	// slow is closed when the registry sets tags again; nil while it does.
	slow chan struct{}

	published map[string]time.Time // refs of images, with the time of the last publication
}

// newWorld returns a world of machines that do not run yet.
func newWorld(t testing.TB, seed uint64, nodes int) *world {
	w := &world{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), hub: clustertest.NewHub(seed), rec: history.NewRecorder(nil),
		startedAt: time.Now(), acked: map[string]bool{}, ended: map[string]bool{}, reached: map[string]int{}, published: map[string]time.Time{}, observed: observedLogs{logs: map[logs.Key][]byte{}},
	}
	w.workloads = &workloads{w: w, pods: map[string]*process{}, lines: map[string]int{}}
	w.keys = filepath.Join(t.TempDir(), "keys.json")
	if err := secrets.NewKeyFile(w.keys); err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		n := &machine{w: w, name: fmt.Sprintf("n%d", i), address: fmt.Sprintf("n%d:1", i)}
		n.wipe()
		w.nodes = append(w.nodes, n)
	}
	return w
}

// intn returns a random number below max, from the seed of the world.
func (w *world) intn(max int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(max)
}

// log prints a line with the simulated time if -sim.v is set.
func (w *world) log(format string, args ...any) {
	if *verboseFlag {
		fmt.Printf("%12s  %s\n", time.Since(w.startedAt).Round(time.Millisecond), fmt.Sprintf(format, args...))
	}
}

// acknowledged returns the ids of the acknowledged builds, in order of acknowledgement.
func (w *world) acknowledged() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ids)
}

// leader returns the machine whose node leads, or nil, and all others.
func (w *world) leader() (*machine, []*machine) {
	var lead *machine
	var others []*machine
	for _, n := range w.nodes {
		if r := n.alive(); r != nil && r.cluster().Leads() && lead == nil {
			lead = n
		} else {
			others = append(others, n)
		}
	}
	return lead, others
}

// awaitLeader waits until a node leads. It returns its machine and all others.
func (w *world) awaitLeader() (lead *machine, others []*machine) {
	for lead == nil {
		wait(context.Background(), 100*time.Millisecond)
		lead, others = w.leader()
	}
	return lead, others
}

// propose commits a command through the leader. It repeats the command until it is committed.
func (w *world) propose(cmd proto.Message) {
	for {
		lead, _ := w.awaitLeader()
		if _, _, err := builds.Propose(context.Background(), lead.alive().node.Raft(), cmd); err == nil {
			return
		}
	}
}

// imageAge is how long a published image stays in the registry. A node can be behind the others for
// longer, and miss both an image and the end of its build.
const imageAge = 2 * time.Minute

// registry is node.Images of one node. Every base image exists, a built image exists for imageAge
// after its publication, and every publication succeeds.
type registry struct {
	w    *world
	node string
}

var _ node.Images = registry{}

func (registry) Resolve(_ context.Context, ref, _ string, _ *buildsv1.Rights) (builds.Image, error) {
	return builds.Image{Ref: ref + "@sha256:base", Digest: "sha256:base"}, nil
}

func (r registry) Head(_ context.Context, ref string, _ *buildsv1.Rights) (builds.Image, error) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if at, ok := r.w.published[ref]; ok && time.Since(at) < imageAge {
		return builds.Image{Ref: ref, Digest: "sha256:built"}, nil
	}
	return builds.Image{}, &builds.ImageError{Kind: builds.ImageNotFound, Ref: ref, Err: errors.New("not there")}
}

func (r registry) Publish(ctx context.Context, _, ref string) error {
	r.w.mu.Lock()
	slow := r.w.slow
	r.w.mu.Unlock()
	if slow != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-slow:
		}
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.published[ref] = time.Now()
	return nil
}

func (registry) Exists(context.Context, string) (bool, error) { return true, nil }

func (registry) Forget(string) {}

// Refresh resolves a cached reference as world.refresh does.
func (r registry) Refresh(ctx context.Context, ref string) (refcache.Refreshed, error) {
	if r.w.refresh == nil {
		return refcache.Refreshed{}, errors.New("nothing is cached in this world")
	}
	return r.w.refresh(ctx, r.node, ref)
}

// wait waits for d, and returns false if ctx ends before.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
