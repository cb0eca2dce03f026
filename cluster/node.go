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

// Node is one member of the Raft group. New, Lead as often as needed, Open,
// and at the end Close.
type Node struct {
	cfg  Config
	fsm  *fsm
	dir  *dataDir
	logs *logStore
	log  raft.LogStore // what Raft uses: logs, or one of a simulation
	raft atomic.Pointer[raft.Raft]

	trans    *consumer
	work     []func(context.Context, *Term) error
	clock    *clock
	reads    readBatches
	peers    *peers
	book     addressBook
	gossip   atomic.Pointer[gossip]
	asks     asks
	lost     chan raft.ServerID
	kick     chan struct{} // look at the membership now; capacity 1
	opened   atomic.Uint64 // last index of the log when this process opened it
	said     seldom        // refusals
	silenced atomic.Bool   // the disk is stuck: send nothing, so that another node can lead

	joining sync.Mutex // held while the node looks after its membership
	leaving bool       // it does not

	mu      sync.Mutex
	leads   bool          // this node leads and has applied a command of its term
	term    uint64        // the term it leads in
	changed chan struct{} // closed and replaced when leads or the leader changes

	stop   context.CancelFunc
	done   sync.WaitGroup
	closed chan struct{}
	once   sync.Once
}

// New locks the data directory and answers a node that is not open yet.
func New(cfg Config) (*Node, error) {
	cfg.setDefaults()
	if cfg.Name == "" || strings.ContainsAny(cfg.Name, "/\x00\n") {
		return nil, fmt.Errorf("node name %q is empty or holds a character that has no place in it", cfg.Name)
	}
	dir, err := openDataDir(cfg.DataDir, cfg.Name, cfg.Storage != nil)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, dir: dir, changed: make(chan struct{}),
		clock: newClock(cfg.Now), stop: func() {}, closed: make(chan struct{}),
		lost: make(chan raft.ServerID, 64), kick: make(chan struct{}, 1), peers: newPeers(),
	}
	n.fsm = newFSM(cfg.StateMachine, string(n.serverID()))
	return n, nil
}

// Lead registers work of the leader. It runs under a context that ends with
// the term; the next term's run begins after it returned. Call before Open.
func (n *Node) Lead(work func(ctx context.Context, term *Term) error) { n.work = append(n.work, work) }

// StoreID is the random id of the data directory.
func (n *Node) StoreID() string { return n.dir.id.StoreID }

// ServerID is the node's Raft server id: name and store id, so that a wiped disk
// makes another server.
func (n *Node) ServerID() string { return string(n.serverID()) }

func (n *Node) serverID() raft.ServerID {
	return raft.ServerID(n.cfg.Name + "/" + n.dir.id.StoreID)
}

// Open verifies the data directory, starts Raft and begins to look for its
// cluster: it joins one that exists, forms one with the expected nodes, or, in
// a group of one, bootstraps it. It does not wait for a leader.
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
	n.log = store.Log
	n.opened.Store(last)
	if err := n.cfg.Network.Open((*local)(n)); err != nil {
		return fmt.Errorf("open the peer port: %w", err)
	}
	n.trans = newConsumer(n.cfg.Network.Raft(), n.mayCall)
	conf := n.raftConfig()
	r, err := raft.NewRaft(conf, n.fsm, store.Log, store.Stable, store.Snapshots, n.trans)
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
	}
	return nil
}

// Proposed reports whether this process has proposed a command: not another
// node, and not a former process of this one.
func (n *Node) Proposed(index uint64, cmd *clusterv1.Command) bool {
	return cmd.GetOrigin() == n.fsm.origin && index > n.opened.Load()
}

// alone reports whether the node is a group of one without a peer port.
func (n *Node) alone() bool {
	_, alone := n.cfg.Network.(*lone)
	return alone
}

// openStorage opens log and snapshots and makes sure that nothing is missing.
func (n *Node) openStorage() (s Storage, last int64, err error) {
	if n.cfg.Storage != nil {
		return *n.cfg.Storage, 0, nil
	}
	id := n.dir.current()
	if n.logs, err = openLogStore(n.dir.path, n.cfg.SegmentBytes, !id.Initialized); err != nil {
		return s, 0, err
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(n.dir.path, 2, n.logger())
	if err != nil {
		return s, 0, fmt.Errorf("open snapshots: %w", err)
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

// bootstrapAlone makes a fresh node without peers a group of one, and keeps a
// member of a larger one from starting as if it were alone.
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

// verifySnapshots reads the newest snapshot to its end: Raft would fall back
// to an older one, which the log may no longer reach.
func (n *Node) verifySnapshots(snaps *raft.FileSnapshotStore) (uint64, error) {
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

// Applied is the index of the last applied command.
func (n *Node) Applied() uint64 { return n.fsm.index() }

// WaitApplied blocks until the command at index is applied here.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error { return n.fsm.wait(ctx, index) }

// Fatal delivers the error at which the node has to stop: a command that this
// binary does not know.
func (n *Node) Fatal() <-chan error { return n.fsm.fatal }

// Status answers how the node sees the cluster.
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
	if r.State() != raft.Leader {
		s.LastContact = -1
		if t := r.LastContact(); !t.IsZero() {
			s.LastContact = time.Since(t)
		}
	}
	return s
}

// Trouble is what this node's own health says against it; nil if it is well.
func (n *Node) Trouble() error {
	if n.logs == nil {
		return nil
	}
	if err := n.logs.trouble(); err != nil {
		return err
	}
	if d := n.logs.stuck(); d > n.cfg.SlowDisk {
		return fmt.Errorf("a write of the replicated log takes %s already", d.Round(time.Second))
	}
	return nil
}

// Snapshot takes a snapshot now. It is no error if there is nothing new.
func (n *Node) Snapshot(ctx context.Context) error {
	err := n.await(ctx, func() raft.Future { return n.raft.Load().Snapshot() })
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}

// Close ends the leader's work, stops Raft and unlocks the data directory. It
// may be called again.
func (n *Node) Close() error {
	n.once.Do(func() { close(n.closed) })
	n.stop()
	var err error
	if r := n.raft.Load(); r != nil {
		// A leader without a quorum answers once its lease is over.
		n.asks.close(time.Second + 2*n.cfg.Election)
		err = r.Shutdown().Error()
	}
	n.done.Wait()
	err = errors.Join(err, n.gossip.Swap(nil).close(), n.cfg.Network.Close())
	if n.trans != nil {
		n.trans.close()
	}
	if n.logs != nil {
		err = errors.Join(err, n.logs.close())
		n.logs = nil
	}
	if n.dir.lock != nil {
		err = errors.Join(err, n.dir.close())
		n.dir.lock = nil
	}
	return err
}

// logger passes Raft's log lines to slog.
func (n *Node) logger() hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Info, Output: io.Discard})
	l.RegisterSink(slogSink{n.cfg.Logger.With("node", n.cfg.Name)})
	return l
}

type slogSink struct{ log *slog.Logger }

// Accept takes one line.
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
