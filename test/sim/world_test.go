package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/owner"
	"github.com/image-builder-ha/image-builder/scheduler/refcache"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds/logs/peer"
	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// world is one simulated cluster.
type world struct {
	t     testing.TB
	seed  uint64
	rand  *rand.Rand
	hub   *clustertest.Hub
	nodes []*node
	rec   *history.Recorder
	begin time.Time
	ring  *secrets.Keyring

	// refresh resolves cached references, on a node; nil for no such work.
	refresh func(ctx context.Context, node, ref string) (refcache.Refreshed, error)

	outside *outside
	shown   shown

	mu      sync.Mutex
	acked   map[string]bool
	ids     []string // acked, in order
	reached map[string]int
}

// node is one node: what survives a crash, and what runs.
type node struct {
	w       *world
	name    string
	address string
	dir     string
	offset  atomic.Int64 // of its clock, nanoseconds
	storage cluster.Storage
	disk    *disk // of logs

	mu  sync.Mutex
	run *running
}

// running is one process of a node.
type running struct {
	net   *clustertest.Network
	node  *cluster.Node
	store *builds.Store
	logs  *peer.Logs
	mount *mount
	api   api.Native
	ctx   context.Context
	boot  string
	term  atomic.Pointer[cluster.Term] // of its last leadership
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// registry has every image and remembers what was published.
type registry struct{}

func (registry) Resolve(_ context.Context, ref, _ string, _ *buildsv1.Rights) (builds.Image, error) {
	return builds.Image{Ref: ref + "@sha256:base", Digest: "sha256:base"}, nil
}

func (registry) Head(_ context.Context, ref string, _ *buildsv1.Rights) (builds.Image, error) {
	return builds.Image{}, &builds.ImageError{Kind: builds.ImageNotFound, Ref: ref, Err: errors.New("not there")}
}
func (registry) Publish(context.Context, string, string) error { return nil }
func (registry) Exists(context.Context, string) (bool, error)  { return true, nil }

// n answers a number below max by the seed's chance.
func (w *world) n(max int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(max)
}

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

func newWorld(t testing.TB, seed uint64, nodes int) *world {
	w := &world{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), hub: clustertest.NewHub(seed), rec: history.NewRecorder(nil),
		begin: time.Now(), acked: map[string]bool{}, reached: map[string]int{}, shown: shown{logs: map[logs.Key][]byte{}},
	}
	w.outside = &outside{w: w, pods: map[string]*process{}, lines: map[string]int{}}
	key := filepath.Join(t.TempDir(), "keys.json")
	if err := secrets.NewKeyFile(key); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.ring, err = secrets.LoadKeyring(key); err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		n := &node{w: w, name: fmt.Sprintf("n%d", i), address: fmt.Sprintf("n%d:1", i)}
		n.fresh()
		w.nodes = append(w.nodes, n)
	}
	return w
}

// runtimeOf runs half of the images in pods.
func runtimeOf(s *imagebuilderv1.Source) string {
	if h := xxhash.Sum64String(s.GetRef().GetRef()); h%2 == 0 {
		return inPod
	}
	return inNode
}

// acknowledged are the ids of builds that clients know, in order.
func (w *world) acknowledged() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ids)
}

// fresh gives the node an empty disk.
func (n *node) fresh() {
	n.dir = n.w.t.TempDir()
	n.storage = clustertest.NewStorage()
	n.disk = newDisk()
}

func (w *world) log(format string, args ...any) {
	if *verboseFlag {
		fmt.Printf("%12s  %s\n", time.Since(w.begin).Round(time.Millisecond), fmt.Sprintf(format, args...))
	}
}

// raftOf lets the domain use the cluster, as the server's adapter does.
type raftOf struct{ node *cluster.Node }

func (r raftOf) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		res, err := r.node.Propose(ctx, cmd)
		if err == nil {
			return res.Index, res.Result, nil
		}
		if !errors.Is(err, cluster.ErrOutcomeUnknown) || !wait(ctx, 5*time.Millisecond) {
			return 0, nil, status.Error(codes.Unavailable, err.Error())
		}
	}
}

func (r raftOf) ReadIndex(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	i, err := r.node.ReadIndex(ctx)
	if err != nil {
		return 0, status.Error(codes.Unavailable, err.Error())
	}
	return i, nil
}

func (r raftOf) WaitApplied(ctx context.Context, i uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := r.node.WaitApplied(ctx, i); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return nil
}

func (r raftOf) Freshness() (uint64, bool, time.Duration) {
	s := r.node.Status()
	return s.Applied, s.LeaderID != "", s.LastContact
}

type termRaft struct {
	raftOf
	term *cluster.Term
}

func (r termRaft) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	res, err := r.term.Propose(ctx, cmd)
	if err != nil {
		return 0, nil, err
	}
	return res.Index, res.Result, nil
}

type liveness struct{ node *cluster.Node }

func (l liveness) Peer(name, store string) (string, time.Duration, bool) {
	p := l.node.Peer(name, store)
	return p.BootID, p.Silent, p.Dead
}
func (l liveness) Takes(string, string) bool     { return true }
func (l liveness) PeersChanged() <-chan struct{} { return l.node.PeersChanged() }
func (l liveness) Member(name, store string) bool {
	return slices.ContainsFunc(l.node.Members(), func(m cluster.Member) bool { return m.ServerID == name+"/"+store })
}

const lease, grace = 4 * time.Second, 2 * time.Second

// start runs a process of the node.
func (n *node) start() {
	w := n.w
	boot := fmt.Sprintf("%s-%d-%d", n.name, time.Since(w.begin), w.n(1<<30))
	r := &running{net: w.hub.NewNetwork(n.name, n.address), store: builds.NewStore(), mount: n.disk.mount()}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	r.ctx, r.boot = ctx, boot
	out := slog.DiscardHandler
	if *verboseFlag {
		out = slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelInfo}).WithAttrs([]slog.Attr{slog.String("node", n.name)})
	}
	log := slog.New(heard{out, w})
	var peers []string
	for _, o := range w.nodes {
		peers = append(peers, o.address)
	}
	var err error
	r.logs, err = peer.Open(peer.Options{
		Node: n.name, State: r.store, Stopping: ctx, Log: log,
		Store: logs.Options{Dir: filepath.Join(n.dir, "logs"), SegmentBytes: 512, FS: r.mount, Logger: log},
	})
	if err != nil {
		w.t.Fatalf("logs of node %s: %v", n.name, err)
	}
	r.node, err = cluster.New(cluster.Config{
		Name: n.name, DataDir: n.dir, StateMachine: restored{r.store, n}, Network: r.net, Storage: &n.storage,
		Discover: func(context.Context) ([]string, error) { return peers, nil }, Expect: len(w.nodes), Voters: 5,
		BootID: boot, FeatureLevel: builds.FeatureLevel,
		CommittedLevel: func() (l uint32) { r.store.Read(func(s *builds.State) { l = s.Level() }); return l },
		Prepare:        builds.Preparer{Keyring: w.ring}.Prepare,
		Logger:         log,
		Serve:          []func(grpc.ServiceRegistrar){r.logs.Register},
		Now:            func() time.Time { return time.Now().Add(time.Duration(n.offset.Load())) },
		Heartbeat:      time.Second, Election: time.Second, PingInterval: time.Second, CommitTimeout: 100 * time.Millisecond,
		SnapshotThreshold: 200, TrailingLogs: 50, SnapshotInterval: 10 * time.Second, AcceptClockJump: true,
	})
	if err != nil {
		w.t.Fatalf("node %s: %v", n.name, err)
	}
	r.logs.Join(r.node)
	adapter := raftOf{r.node}
	rt := map[string]workload.Runtime{inNode: runtime{w.outside, inNode}, inPod: runtime{w.outside, inPod}}
	owner := owner.NewOwner(owner.OwnerOptions{
		Node: n.name, StoreID: r.node.StoreID(), Store: r.store, Raft: adapter, Keyring: w.ring, Logs: r.logs, Publisher: registry{},
		Runtimes: rt, Log: log, ReplaceAfter: time.Second, RepairAfter: 20 * time.Second, FenceTimeout: time.Minute,
	})
	r.node.Lead(func(term context.Context, t *cluster.Term) error {
		r.term.Store(t)
		term, cancel := context.WithCancel(term)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return scheduler.NewLeader(scheduler.LeaderOptions{
			Store: r.store, Raft: termRaft{adapter, t}, Log: log, Now: t.Now, Nodes: liveness{r.node}, LostAfter: lease + grace,
			Runtime: runtimeOf, Adoptable: func(name string) bool { return name == inPod },
			Replicas: 2, FenceTimeout: time.Minute,
		}).Run(term)
	})
	r.node.Lead(func(term context.Context, _ *cluster.Term) error {
		term, cancel := context.WithCancel(term)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return (&scheduler.Reaper{Store: r.store, Raft: adapter, Runtimes: rt, Log: log}).Run(term)
	})
	if w.refresh != nil {
		r.node.Lead(func(term context.Context, t *cluster.Term) error {
			term, cancel := context.WithCancel(term)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			return (&refcache.RefreshLeader{Store: r.store, Raft: termRaft{adapter, t}, Log: log}).Run(term)
		})
	}
	r.api = api.Native{Service: api.NewService(api.ServiceOptions{
		Store: r.store, Raft: adapter, Registry: registry{}, Logs: r.logs,
		Repositories: api.Repositories{Base: "r.example.com/base", Workspace: "r.example.com/ws", BaseHost: "r.example.com", WorkspaceHost: "r.example.com"},
		Timeout:      time.Hour, MaxTimeout: time.Hour,
	})}
	if err := r.node.Open(ctx); err != nil {
		w.t.Fatalf("node %s: %v", n.name, err)
	}
	r.done.Go(func() {
		for {
			_, _, err := builds.Propose(ctx, adapter, &buildsv1.NodeStarted{
				Name: n.name, StoreId: r.node.StoreID(), BootId: boot, Capacity: 8, Runtimes: []string{inNode, inPod},
			})
			if err == nil || !wait(ctx, 100*time.Millisecond) {
				break
			}
		}
		r.done.Go(func() { n.keepLease(ctx, r, owner, adapter, boot) })
		r.done.Go(func() {
			for wait(ctx, time.Minute) {
				if index, err := adapter.ReadIndex(ctx); err == nil && adapter.WaitApplied(ctx, index) == nil {
					r.logs.Reap()
				}
			}
		})
		if w.refresh != nil {
			r.done.Go(func() {
				(&refcache.Refresher{
					Node: n.name, Store: r.store, Raft: adapter, Log: log,
					Resolve: func(ctx context.Context, ref string) (refcache.Refreshed, error) {
						return w.refresh(ctx, n.name, ref)
					},
				}).Run(ctx)
			})
		}
		_ = owner.Run(ctx)
	})
	n.mu.Lock()
	n.run = r
	n.mu.Unlock()
}

// keepLease does what the server does.
func (n *node) keepLease(ctx context.Context, r *running, owner *owner.Owner, adapter raftOf, boot string) {
	for wait(ctx, lease/20) {
		if c := r.node.Status().LastContact; c < 0 || c >= lease {
			owner.LeaseLost()
			continue
		}
		owner.LeaseHeld()
		var me *buildsv1.Node
		r.store.Read(func(s *builds.State) { me = s.Node(n.name) })
		if me.GetLost() || me.GetBootId() != boot {
			_, _, _ = builds.Propose(ctx, adapter, &buildsv1.NodeStarted{
				Name: n.name, StoreId: r.node.StoreID(), BootId: boot, Capacity: 8, Runtimes: []string{inNode, inPod},
			})
		}
	}
}

// restored counts snapshots that a running node was sent.
type restored struct {
	*builds.Store
	n *node
}

func (s restored) Restore(r io.Reader) error {
	if s.n.alive() != nil {
		s.n.w.seen("a node took the leader's snapshot")
	}
	return s.Store.Restore(r)
}

// crash ends the process at once.
func (n *node) crash() {
	n.mu.Lock()
	r := n.run
	n.run = nil
	n.mu.Unlock()
	if r == nil {
		return
	}
	r.net.Crash()
	r.mount.kill()
	r.stop()
	r.logs.StopCopying()
	_ = r.node.Close()
	r.done.Wait()
	_ = r.logs.Close() // it cannot write any more
}

func (n *node) alive() *running {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run
}
