package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Node is one member of the Raft group. Call New, then Lead as often as needed, then Open, and
// finally Close.
type Node struct {
	cfg  Config
	fsm  *fsm
	dir  *dataDir
	logs *logStore
	log  raft.LogStore // the log that Raft uses: logs, or that of Config.Storage
	raft atomic.Pointer[raft.Raft]

	terms      *termStore                      // set before raft
	confirmers atomic.Pointer[[]raft.ServerID] // voters that confirmed the last read index

	trans     *consumer
	work      []func(context.Context, *Term) error
	clock     *clock
	reads     readBatches
	peers     *peers
	book      addressBook
	gossip    atomic.Pointer[gossip]
	raftCalls callCounter
	reach     *reach
	lost      chan raft.ServerID
	recheck   chan struct{} // makes memberLoop check the membership now; capacity 1
	opened    atomic.Uint64 // last index of the log when this process opened it
	refusals  logLimiter    // limits the log lines about refused nodes

	current atomic.Pointer[Term] // the term whose work runs on this node, nil if none does; written under mu

	joining sync.Mutex // held while memberLoop checks the membership
	leaving bool       // memberLoop must not join

	restores      *restoreFiles
	restoreBusy   chan struct{} // full while this leader restores a snapshot; capacity 1
	beforeRestore func()        // called before a restore is proposed; nil except in tests
	restoreMoves  atomic.Uint64 // odd while a restore of this leader is proposed and not applied

	floors floors
	hashes hashes

	stateBusy chan struct{} // full while this node sends its state to a member; capacity 1
	stored    atomic.Uint64 // index of the last entry when this process opened the log and the snapshots

	pinged     pinged
	membership chan struct{} // full while Raft's configuration is changed; capacity 1

	mu      sync.Mutex
	leads   bool          // this node leads and has applied a command of its term; see setLeads
	term    uint64        // the term in which it leads
	changed chan struct{} // closed and replaced when leads or the leader changes

	stop   context.CancelFunc
	done   sync.WaitGroup
	closed chan struct{}
	once   sync.Once
}

// New locks the data directory and returns a node that is not open yet. The caller closes it.
func New(cfg Config) (*Node, error) {
	cfg.setDefaults()
	if cfg.Name == "" || strings.ContainsAny(cfg.Name, "/\x00\n") {
		return nil, fmt.Errorf("node name %q is empty or contains a slash, a newline or a NUL", cfg.Name)
	}
	dir, err := openDataDir(cfg.DataDir, cfg.Name, cfg.Storage != nil)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, dir: dir, changed: make(chan struct{}),
		clock: newClock(cfg.Now), stop: func() {}, closed: make(chan struct{}),
		lost: make(chan raft.ServerID, 64), recheck: make(chan struct{}, 1), membership: make(chan struct{}, 1), restoreBusy: make(chan struct{}, 1), stateBusy: make(chan struct{}, 1), peers: newPeers(), reach: newReach(),
	}
	n.fsm = newFSM(cfg.StateMachine, string(n.serverID()))
	n.fsm.level, n.fsm.restoreData = cfg.FeatureLevel, n.restoreData
	n.fsm.wrong = n.replaceable
	n.hashes.wake = make(chan struct{}, 1)
	return n, nil
}

// Lead registers work of the leader. It runs in each term of this node under a context that ends
// with the term. The run in the next term begins after work has returned. Call Lead before Open.
func (n *Node) Lead(work func(ctx context.Context, term *Term) error) { n.work = append(n.work, work) }

// StoreID returns the random id of the data directory.
func (n *Node) StoreID() string { return n.dir.id.StoreID }

// ServerID returns the node's Raft server id: name/store id. A node whose disk was wiped is another
// server.
func (n *Node) ServerID() string { return string(n.serverID()) }

func (n *Node) serverID() raft.ServerID {
	return raft.ServerID(n.cfg.Name + "/" + n.dir.id.StoreID)
}

// Open verifies the data directory, starts Raft and starts to look for the cluster in the
// background: the node joins an existing cluster, or forms one with the expected nodes, or, in a
// group of one, bootstraps it. Open does not wait for a leader. The node does not end with ctx;
// call Close. If Open returns an error, it has closed the node.
func (n *Node) Open(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	store, lastTime, err := n.openStorage()
	if err != nil {
		return err
	}
	last, err := store.Log.LastIndex()
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	if err := n.noteStored(store); err != nil {
		return err
	}
	n.log = store.Log
	if err := n.openRestores(store.Log); err != nil {
		return err
	}
	n.opened.Store(last)
	if err := n.cfg.Network.Open((*local)(n)); err != nil {
		return fmt.Errorf("open the peer port: %w", err)
	}
	n.trans = newConsumer(n.cfg.Network.Raft(), n.mayCall, func(c *consumer) {
		c.stand = n.diskProblem
		n.guardInstalls(c, store.Log, store.Snapshots)
	})
	if err := n.undoPartOfBootstrap(store, last); err != nil {
		return fmt.Errorf("repeat the bootstrap: %w", err)
	}
	conf := n.raftConfig()
	if n.terms, err = newTermStore(store.Stable); err != nil {
		return err
	}
	r, err := raft.NewRaft(conf, n.fsm, store.Log, n.terms, store.Snapshots, n.trans)
	if err != nil {
		return fmt.Errorf("start Raft: %w", err)
	}
	n.raft.Store(r)
	if err := n.bootstrapAlone(r); err != nil {
		return err
	}
	if err := n.checkClock(max(lastTime, n.cfg.StateMachine.LastTime())); err != nil {
		return err
	}
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	observed := make(chan raft.Observation, 64)
	o := raft.NewObserver(observed, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	r.RegisterObserver(o)
	n.done.Go(func() { defer r.DeregisterObserver(o); n.watchLeader(ctx, observed) })
	n.done.Go(func() { n.leaderLoop(ctx) })
	n.done.Go(func() { n.diskLoop(ctx) })
	n.done.Go(func() { n.cleanRestores(ctx) })
	if !n.alone() {
		g, err := n.openGossip()
		if err != nil {
			return err
		}
		if g != nil {
			n.gossip.Store(g)
			n.done.Go(func() { g.run(ctx) })
		}
		n.done.Go(func() { n.memberLoop(ctx) })
		n.done.Go(func() { n.lossLoop(ctx) })
		n.done.Go(func() { n.watchReach(ctx) })
		n.done.Go(func() { n.watchSilentLeader(ctx) })
		n.done.Go(func() { n.repairLoop(ctx) })
	}
	return nil
}

// Proposed reports whether this process has proposed the command that is being applied. It returns false for
// commands of other nodes and of a former process of this node.
func (n *Node) Proposed(index uint64, cmd *clusterv1.Command) bool {
	_, offset := n.fsm.position()
	return cmd.GetOrigin() == n.fsm.origin && index-offset > n.opened.Load()
}

// alone reports whether the node is a group of one, without a peer port.
func (n *Node) alone() bool {
	_, alone := n.cfg.Network.(*lone)
	return alone
}

// openStorage opens the log and the snapshots, verifies both and returns the greatest time in the
// log.
func (n *Node) openStorage() (s Storage, last int64, err error) {
	var disk Disk
	var snaps raft.SnapshotStore
	if given := n.cfg.Storage; given != nil {
		if given.Disk == nil {
			return *given, 0, nil
		}
		disk, snaps = given.Disk, given.Snapshots
	}
	id := n.dir.current()
	if n.logs, err = openLogStore(n.dir.path, disk, n.cfg.SegmentBytes, !id.Initialized); err != nil {
		return s, 0, err
	}
	if snaps == nil {
		if snaps, err = raft.NewFileSnapshotStoreWithLogger(n.dir.path, 2, n.logger()); err != nil {
			return s, 0, fmt.Errorf("open snapshots: %w", err)
		}
	}
	newest, err := n.verifySnapshots(snaps)
	if err != nil {
		return s, 0, err
	}
	if last, err = n.logs.verify(n.dir.path, newest, id.Initialized); err != nil {
		return s, 0, err
	}
	return Storage{Log: n.logs, Stable: n.logs, Snapshots: snaps}, last, nil
}

// bootstrapAlone makes a new node without peers a group of one. It returns an error if the data is
// that of a member of a larger cluster, which must not start as if it were alone.
func (n *Node) bootstrapAlone(r *raft.Raft) error {
	if !n.alone() {
		return nil
	}
	servers := r.GetConfiguration().Configuration().Servers
	if len(servers) > 1 {
		return fmt.Errorf("the data directory %s belongs to a cluster of %d nodes, and no peers are configured: configure them, or make the node the only one with 'image-builder cluster recover' if the others are gone for good", n.dir.path, len(servers))
	}
	if len(servers) > 0 && n.dir.current().Initialized {
		return nil
	}
	if err := mayFormAlone(n.dir.current()); err != nil {
		return fmt.Errorf("the data directory %s belongs to a member of a cluster: %w, and no peers are configured: configure them, or give this node an empty directory", n.dir.path, err)
	}
	if err := n.bootstrap(n.dir.id.StoreID, []bootstrapServer{{ID: string(n.serverID()), Address: n.cfg.Network.Address(), Voter: true}}); err != nil {
		return err
	}
	return nil
}

func (n *Node) raftConfig() *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = n.serverID()
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = n.cfg.Heartbeat, n.cfg.Election, n.cfg.Lease
	conf.CommitTimeout = n.cfg.CommitTimeout
	conf.SnapshotThreshold, conf.TrailingLogs = n.cfg.SnapshotThreshold, n.cfg.TrailingLogs
	conf.SnapshotInterval = n.cfg.SnapshotInterval
	conf.MaxAppendEntries = 64
	conf.BatchApplyCh = true
	conf.NoLegacyTelemetry = true
	conf.Logger = n.logger()
	return conf
}

// verifySnapshots reads the newest snapshot to its end and returns its index. Without this check,
// Raft would silently use an older snapshot, although the log may not continue from there.
func (n *Node) verifySnapshots(snaps raft.SnapshotStore) (uint64, error) {
	list, err := snaps.List()
	if err != nil {
		return 0, fmt.Errorf("list snapshots: %w", err)
	}
	if len(list) == 0 {
		return 0, nil
	}
	_, rc, err := snaps.Open(list[0].ID)
	if err == nil {
		_, err = readSnapshot(rc, func(io.Reader) error { return nil })
		err = errors.Join(err, rc.Close())
	}
	if err != nil {
		return 0, damaged(n.dir.path, fmt.Sprintf("snapshot %s cannot be read: %v", list[0].ID, err))
	}
	return list[0].Index, nil
}

func (n *Node) checkClock(last int64) error {
	if last == 0 || n.cfg.AcceptClockJump {
		return nil
	}
	now, then := n.cfg.Now(), time.Unix(0, last)
	switch d := now.Sub(then); {
	case d < -n.cfg.MaxClockBack:
		return fmt.Errorf("the clock says %s, which is %s before the last change of the state: correct the clock, or start once with the clock jump accepted", now.UTC().Format(time.RFC3339), -d.Round(time.Second))
	case d > n.cfg.MaxClockAhead:
		return fmt.Errorf("the clock says %s, which is %s after the last change of the state: correct the clock, or start once with the clock jump accepted", now.UTC().Format(time.RFC3339), d.Round(time.Second))
	}
	return nil
}

// Applied returns the index of the last applied command.
func (n *Node) Applied() uint64 { return n.fsm.index() }

// WaitApplied blocks until the command at index is applied on this node.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error { return n.fsm.wait(ctx, index) }

// Fatal returns a channel that delivers the error at which the node must stop: a command that this
// binary does not know.
func (n *Node) Fatal() <-chan error { return n.fsm.fatal }

// Status returns the cluster as this node sees it.
func (n *Node) Status() Status {
	s := Status{Name: n.cfg.Name, StoreID: n.dir.id.StoreID, Role: raft.Shutdown.String(), Applied: n.fsm.index()}
	r := n.raft.Load()
	if r == nil {
		return s
	}
	_, id := r.LeaderWithID()
	s.Role = r.State().String()
	s.LeaderID = string(id)
	s.LeaderName = nameOf(id)
	s.Term = r.CurrentTerm()
	if c, a := r.CommitIndex(), r.AppliedIndex(); c > a {
		s.Behind = c - a
	}
	s.ClusterID = n.dir.current().ClusterID
	for _, m := range r.GetConfiguration().Configuration().Servers {
		s.Voter = s.Voter || m.ID == n.serverID() && m.Suffrage == raft.Voter
	}
	s.LastContact = n.lastContact(r)
	return s
}

// Trouble returns the health problem of this node's disk or of its state, or nil.
func (n *Node) Trouble() error {
	if err := n.Diverged(); err != nil {
		return err
	}
	if n.logs == nil {
		return nil
	}
	if err := n.logs.healthProblem(); err != nil {
		return err
	}
	if d := n.logs.stuck(); d > n.cfg.SlowDisk {
		return fmt.Errorf("a write of the replicated log has been in progress for %s", d.Round(time.Second))
	}
	return nil
}

// Snapshot takes a snapshot now. It returns nil if there is nothing new.
func (n *Node) Snapshot(ctx context.Context) error {
	err := n.await(ctx, func() raft.Future { return n.raft.Load().Snapshot() })
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}

// Close ends the leader's work, stops Raft and unlocks the data directory. It can be called again.
func (n *Node) Close() error {
	n.once.Do(func() { close(n.closed) })
	n.stop()
	var err error
	if r := n.raft.Load(); r != nil {
		// A leader without a quorum completes its calls when its lease ends.
		n.raftCalls.close(time.Second + 2*n.cfg.Election)
		err = r.Shutdown().Error()
	}
	n.done.Wait()
	err = errors.Join(err, n.gossip.Swap(nil).close(), n.cfg.Network.Close())
	if n.trans != nil {
		n.trans.close()
	}
	if n.logs != nil {
		err = errors.Join(err, n.logs.close()) // pings may read its health still
	}
	if n.dir.lock != nil {
		err = errors.Join(err, n.dir.close())
		n.dir.lock = nil
	}
	return err
}

// logger returns a logger of Raft that writes to Config.Logger, info lines at debug level.
func (n *Node) logger() hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Info, Output: io.Discard})
	l.RegisterSink(slogSink{n.cfg.Logger.With("node", n.cfg.Name)})
	return l
}

type slogSink struct{ log *slog.Logger }

// Accept writes one log line.
func (s slogSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	to := map[hclog.Level]slog.Level{
		hclog.Warn: slog.LevelWarn, hclog.Error: slog.LevelError, hclog.Info: slog.LevelDebug,
	}[level]
	if level < hclog.Info {
		return
	}
	if name != "" {
		msg = name + ": " + msg
	}
	s.log.Log(context.Background(), to, msg, args...)
}
