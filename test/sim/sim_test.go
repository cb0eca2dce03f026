// Package sim runs whole clusters in one process under simulated time: real
// Raft, the real state, the real services and scheduler, on a network and
// disks that fail by chance. What clients saw is judged afterwards.
package sim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
	"github.com/image-builder-ha/image-builder/verify/history"
)

var (
	seedFlag    = flag.Uint64("sim.seed", 0, "run this seed only")
	minutesFlag = flag.Int("sim.minutes", 6, "simulated minutes of each run")
	runsFlag    = flag.Int("sim.runs", 4, "how many seeds to run")
	verboseFlag = flag.Bool("sim.v", false, "print what happens")
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
	ring  *builds.Keyring

	// refresh resolves cached references, on a node; nil for no such work.
	refresh func(ctx context.Context, node, ref string) (scheduler.Refreshed, error)

	mu    sync.Mutex
	acked map[string]bool
}

// node is one node: what survives a crash, and what runs.
type node struct {
	w       *world
	name    string
	address string
	dir     string
	offset  atomic.Int64 // of its clock, nanoseconds
	storage cluster.Storage

	mu  sync.Mutex
	run *running
}

// running is one process of a node.
type running struct {
	net   *clustertest.Network
	node  *cluster.Node
	store *builds.Store
	api   builds.Native
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

type noLogs struct{}

func (noLogs) OpenLog(context.Context, string, uint32, int64, bool) (builds.LogStream, error) {
	return nil, builds.ErrNotFound
}

func (noLogs) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (scheduler.LogWriter, error) {
	return noLog{}, nil
}
func (noLogs) Fence(logs.Key, uint64) (int64, string, error) { return 0, "", nil }
func (noLogs) Copy(logs.Key, uint64, []*imagebuilderv1.LogCopy) (*logs.Feed, error) {
	return nil, errors.New("no copies")
}
func (noLogs) Complete(logs.Key, int64) error { return nil }
func (noLogs) Completed(logs.Key) bool        { return true }

type noLog struct{}

func (noLog) Write(p []byte) (int, error)                 { return len(p), nil }
func (noLog) RawOffset() int64                            { return 0 }
func (noLog) Marker(string) error                         { return nil }
func (noLog) Redact(s string) string                      { return s }
func (noLog) Seal(context.Context) (int64, string, error) { return 0, "", nil }
func (noLog) Feed() *logs.Feed                            { return nil }
func (noLog) Close()                                      {}

// runtime ends each workload after a while, most of them well.
type runtime struct{ w *world }

func (runtime) Name() string { return "sim" }
func (r runtime) Run(ctx context.Context, w *scheduler.Workload, _ scheduler.Sink) (scheduler.Outcome, error) {
	if !wait(ctx, time.Duration(r.w.n(4000))*time.Millisecond) {
		return scheduler.Outcome{}, ctx.Err()
	}
	if r.w.n(20) == 0 {
		return scheduler.Outcome{}, &scheduler.Failure{Blame: builds.BlameInfrastructure, Message: "the dice say so"}
	}
	return scheduler.Outcome{Repository: "r", Digest: "sha256:" + w.BuildID}, nil
}
func (runtime) Stop(context.Context, string) error     { return nil }
func (runtime) List(context.Context) ([]string, error) { return nil, nil }
func (runtime) Survives() bool                         { return false }

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
		begin: time.Now(), acked: map[string]bool{},
	}
	key := filepath.Join(t.TempDir(), "keys.json")
	if err := builds.NewKeyFile(key); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.ring, err = builds.LoadKeyring(key); err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		n := &node{w: w, name: fmt.Sprintf("n%d", i), address: fmt.Sprintf("n%d:1", i)}
		n.fresh()
		w.nodes = append(w.nodes, n)
	}
	return w
}

// fresh gives the node an empty disk.
func (n *node) fresh() {
	n.dir = n.w.t.TempDir()
	n.storage = clustertest.NewStorage()
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
	r := &running{net: w.hub.NewNetwork(n.name, n.address), store: builds.NewStore()}
	log := slog.New(slog.DiscardHandler)
	if *verboseFlag {
		log = slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	var peers []string
	for _, o := range w.nodes {
		peers = append(peers, o.address)
	}
	var err error
	r.node, err = cluster.New(cluster.Config{
		Name: n.name, DataDir: n.dir, StateMachine: r.store, Network: r.net, Storage: &n.storage,
		Discover: func(context.Context) ([]string, error) { return peers, nil }, Expect: len(w.nodes), Voters: 5,
		BootID: boot, FeatureLevel: builds.FeatureLevel,
		CommittedLevel: func() (l uint32) { r.store.Read(func(s *builds.State) { l = s.Level() }); return l },
		Prepare:        builds.Preparer{Keyring: w.ring}.Prepare,
		Logger:         log,
		Now:            func() time.Time { return time.Now().Add(time.Duration(n.offset.Load())) },
		Heartbeat:      time.Second, Election: time.Second, PingInterval: time.Second,
		SnapshotThreshold: 200, TrailingLogs: 50, SnapshotInterval: 10 * time.Second, AcceptClockJump: true,
	})
	if err != nil {
		w.t.Fatalf("node %s: %v", n.name, err)
	}
	adapter := raftOf{r.node}
	rt := map[string]scheduler.Runtime{"sim": runtime{w}}
	owner := scheduler.NewOwner(scheduler.OwnerOptions{
		Node: n.name, StoreID: r.node.StoreID(), Store: r.store, Raft: adapter, Keyring: w.ring, Logs: noLogs{}, Publisher: registry{},
		Runtimes: rt, Log: log, ReplaceAfter: time.Second, RepairAfter: time.Hour,
	})
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	r.node.Lead(func(term context.Context, t *cluster.Term) error {
		r.term.Store(t)
		term, cancel := context.WithCancel(term)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return scheduler.NewLeader(scheduler.LeaderOptions{
			Store: r.store, Raft: termRaft{adapter, t}, Log: log, Nodes: liveness{r.node}, LostAfter: lease + grace,
			Runtime: func(*imagebuilderv1.Source) string { return "sim" }, Adoptable: func(string) bool { return false },
			FenceTimeout: time.Minute,
		}).Run(term)
	})
	if w.refresh != nil {
		r.node.Lead(func(term context.Context, t *cluster.Term) error {
			term, cancel := context.WithCancel(term)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			return (&scheduler.RefreshLeader{Store: r.store, Raft: termRaft{adapter, t}, Log: log}).Run(term)
		})
	}
	r.api = builds.Native{Service: builds.NewService(builds.ServiceOptions{
		Store: r.store, Raft: adapter, Registry: registry{}, Logs: noLogs{},
		Repositories: builds.Repositories{Base: "r.example.com/base", Workspace: "r.example.com/ws", BaseHost: "r.example.com", WorkspaceHost: "r.example.com"},
		Timeout:      time.Hour, MaxTimeout: time.Hour,
	})}
	if err := r.node.Open(ctx); err != nil {
		w.t.Fatalf("node %s: %v", n.name, err)
	}
	r.done.Go(func() {
		for {
			_, _, err := builds.Propose(ctx, adapter, &buildsv1.NodeStarted{
				Name: n.name, StoreId: r.node.StoreID(), BootId: boot, Capacity: 8, Runtimes: []string{"sim"},
			})
			if err == nil || !wait(ctx, 100*time.Millisecond) {
				break
			}
		}
		r.done.Go(func() { n.keepLease(ctx, r, owner, adapter, boot) })
		if w.refresh != nil {
			r.done.Go(func() {
				(&scheduler.Refresher{
					Node: n.name, Store: r.store, Raft: adapter, Log: log,
					Resolve: func(ctx context.Context, ref string) (scheduler.Refreshed, error) {
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
func (n *node) keepLease(ctx context.Context, r *running, owner *scheduler.Owner, adapter raftOf, boot string) {
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
				Name: n.name, StoreId: r.node.StoreID(), BootId: boot, Capacity: 8, Runtimes: []string{"sim"},
			})
		}
	}
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
	r.stop()
	_ = r.node.Close()
	r.done.Wait()
}

func (n *node) alive() *running {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run
}

// nemesis hurts the cluster until ctx ends, never more than a minority at a
// time, and heals it.
func (w *world) nemesis(ctx context.Context) {
	names := func(ns []*node) (out []string) {
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
			slices.SortStableFunc(ns, func(a, b *node) int {
				lead := func(n *node) int {
					if r := n.alive(); r != nil && r.node.Leads() {
						return 0
					}
					return 1
				}
				return lead(a) - lead(b)
			})
		}
		minority := ns[:1+w.n((len(ns)-1)/2)]
		last := time.Duration(500+w.n(15000)) * time.Millisecond
		switch what := w.n(8); what {
		case 0, 1:
			w.log("crash %v for %s", names(minority), last)
			for _, n := range minority {
				n.crash()
			}
			wait(ctx, last)
			for _, n := range minority {
				n.start()
			}
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
				_ = r.node.TransferLeadership(tctx, "")
				cancel()
			}
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

// client asks for builds, reads and cancels through any node, one call after
// the other.
func (w *world) client(ctx context.Context, name string) {
	var mine []string
	var index uint64
	for wait(ctx, time.Duration(200+w.n(3000))*time.Millisecond) {
		r := w.nodes[w.n(len(w.nodes))].alive()
		if r == nil {
			continue
		}
		call, cancel := context.WithTimeout(ctx, time.Duration(500+w.n(8000))*time.Millisecond)
		switch k := w.n(10); {
		case k < 4 || len(mine) == 0:
			op := history.Operation{
				Kind: history.Create, Ref: fmt.Sprintf("image-%d", w.n(6)), Requester: name,
				RequestID: fmt.Sprintf("%s-%d", name, w.n(1<<30)), Force: true,
			}
			if id, at, ok := w.create(call, r, name, op); ok {
				mine, index = append(mine, id), max(index, at)
			}
		case k < 8:
			op := history.Operation{Kind: history.Read, ID: mine[w.n(len(mine))], Linearizable: w.n(2) == 0}
			if !op.Linearizable {
				op.MinIndex = index
			}
			index = max(index, w.read(call, r, name, op))
		default:
			w.cancel(call, r, name, history.Operation{Kind: history.Cancel, ID: mine[w.n(len(mine))], Requester: name})
		}
		cancel()
	}
}

// unknown reports whether nobody knows what became of a call.
func (w *world) close(c *history.Call, err error) {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition:
		c.Failed(err)
	default:
		c.Unknown(err)
	}
}

func source(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}

// create asks until it is answered or the time is over: retries of one request
// are one operation.
func (w *world) create(ctx context.Context, r *running, who string, op history.Operation) (id string, index uint64, ok bool) {
	c := w.rec.Begin(who, op)
	var err error
	for {
		var res *imagebuilderv1.BuildImageResponse
		res, err = r.api.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
			Source: source("docker.io/library/" + op.Ref + ":1"), Requester: op.Requester, RequestId: op.RequestID, Force: true,
		})
		if err == nil {
			c.End(history.Created(res))
			w.mu.Lock()
			w.acked[res.Build.Id] = true
			w.mu.Unlock()
			return res.Build.Id, res.Read.GetIndex(), true
		}
		if status.Code(err) != codes.Unavailable || !wait(ctx, 50*time.Millisecond) {
			break
		}
		if next := w.nodes[w.n(len(w.nodes))].alive(); next != nil {
			r = next
		}
	}
	w.close(c, err)
	return "", 0, false
}

func (w *world) read(ctx context.Context, r *running, who string, op history.Operation) uint64 {
	c := w.rec.Begin(who, op)
	res, err := r.api.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{
		Build: &imagebuilderv1.BuildStatusRequest_Id{Id: op.ID}, Linearizable: op.Linearizable, MinIndex: op.MinIndex,
	})
	switch {
	case err == nil:
		c.End(history.Outcome{Build: history.See(res.Build), Index: res.Read.GetIndex()})
		return res.Read.GetIndex()
	case status.Code(err) == codes.NotFound:
		c.End(history.Outcome{NotFound: true})
	default:
		w.close(c, err)
	}
	return 0
}

func (w *world) cancel(ctx context.Context, r *running, who string, op history.Operation) {
	c := w.rec.Begin(who, op)
	res, err := r.api.CancelBuild(ctx, &imagebuilderv1.CancelBuildRequest{Id: op.ID, Requester: op.Requester})
	switch status.Code(err) {
	case codes.OK:
		c.End(history.Outcome{Build: history.See(res.Build), Detached: res.DetachedOnly, Index: res.Read.GetIndex()})
	case codes.FailedPrecondition:
		c.End(history.Outcome{TooLate: true})
	case codes.PermissionDenied:
		c.End(history.Outcome{NotRequester: true})
	default:
		w.close(c, err)
	}
}

// settle waits until every acknowledged build has ended.
func (w *world) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for id := range w.acked {
		for {
			r := w.nodes[w.n(len(w.nodes))].alive()
			res, err := r.api.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{
				Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}, WaitFor: imagebuilderv1.Phase_PHASE_SUCCEEDED, Linearizable: true,
			})
			if err == nil && res.Build.EndedAt != nil {
				c := w.rec.Begin("observer", history.Operation{Kind: history.Observe, ID: id})
				c.End(history.Outcome{Build: history.See(res.Build), Index: res.Read.GetIndex()})
				break
			}
			if ctx.Err() != nil {
				w.t.Errorf("seed %d: acknowledged build %s did not end: %v", w.seed, id, err)
				for _, n := range w.nodes {
					r := n.alive()
					r.store.Read(func(s *builds.State) {
						rec := s.Build(id)
						w.t.Logf("%s: status %+v; build %v; successor %v; stop %v", n.name, r.node.Status(), rec.GetBuild(), rec.GetSuccessor(), rec.GetStopReason())
						s.Nodes(func(x *buildsv1.Node) bool { w.t.Logf("  node %v", x); return true })
					})
				}
				return
			}
			wait(ctx, 100*time.Millisecond)
		}
	}
}

// simulate runs one seed and answers the history.
func simulate(t testing.TB, seed uint64, nodes int, minutes int) (h history.History) {
	w := newWorld(t, seed, nodes)
	for _, n := range w.nodes {
		n.start()
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Duration(minutes)*time.Minute)
	defer stop()
	wait(ctx, 5*time.Second)
	var all sync.WaitGroup
	all.Go(func() { w.nemesis(ctx) })
	for i := range 6 {
		all.Go(func() { w.client(ctx, fmt.Sprintf("c%d", i)) })
	}
	all.Wait()
	w.settle(context.Background())
	for _, n := range w.nodes {
		n.crash()
	}
	wait(context.Background(), 30*time.Second) // calls of the last moments end
	return w.rec.History()
}

// Test_Simulation runs seeds of three and five nodes.
func Test_Simulation(t *testing.T) {
	begin := time.Now()
	var simulated, calls atomic.Int64
	t.Cleanup(func() {
		real := time.Since(begin)
		t.Logf("%d simulated minutes in %s: %.0f a minute; %d calls", simulated.Load(), real.Round(time.Millisecond), float64(simulated.Load())/real.Minutes(), calls.Load())
	})
	for i := range *runsFlag {
		seed := uint64(i + 1)
		if *seedFlag != 0 {
			seed = *seedFlag
		} else if os.Getenv("SIM_RANDOM") != "" {
			seed = rand.Uint64N(1 << 40)
		}
		nodes := 3 + 2*int(seed%2)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			var h history.History
			synctest.Test(t, func(t *testing.T) { h = simulate(t, seed, nodes, *minutesFlag) })
			calls.Add(int64(len(h)))
			simulated.Add(int64(*minutesFlag))
			if err := history.Check(h); err != nil {
				path := filepath.Join(os.TempDir(), fmt.Sprintf("history-%d.jsonl", seed))
				t.Errorf("seed %d of %d nodes (again: go test ./test/sim -sim.seed %d; history in %s): %v", seed, nodes, seed, path, errors.Join(err, history.Save(path, h)))
			}
		})
		if *seedFlag != 0 {
			break
		}
	}
}
