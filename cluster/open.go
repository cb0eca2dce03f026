package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/clock"
	"github.com/image-builder-ha/image-builder/cluster/datadir"
	"github.com/image-builder-ha/image-builder/cluster/fsm"
	"github.com/image-builder-ha/image-builder/cluster/gossip"
	"github.com/image-builder-ha/image-builder/cluster/raftguard"
)

// New locks the data directory and returns a node that is not open yet. The caller closes it.
func New(cfg Config) (*Node, error) {
	cfg.setDefaults()
	if cfg.Name == "" || strings.ContainsAny(cfg.Name, "/\x00\n") {
		return nil, fmt.Errorf("node name %q is empty or contains a slash, a newline or a NUL", cfg.Name)
	}
	dir, err := datadir.Open(cfg.DataDir, cfg.Name, cfg.Storage != nil)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, dir: dir, changed: make(chan struct{}),
		clock: clock.New(cfg.Now), stop: func() {}, closed: make(chan struct{}),
		lost: make(chan raft.ServerID, 64), recheck: make(chan struct{}, 1), membership: make(chan struct{}, 1), restoreBusy: make(chan struct{}, 1), stateBusy: make(chan struct{}, 1), peers: newPeers(cfg.PingInterval), reach: newReach(),
	}
	n.fsm = fsm.New(fsm.Options{Machine: cfg.StateMachine, Origin: n.ServerID(), Level: cfg.FeatureLevel, RestoreData: n.restoreData, Wrong: n.replaceable})
	n.divergences.wake = make(chan struct{}, 1)
	return n, nil
}

// Lead registers work of the leader. It runs in each term of this node under a context that ends
// with the term. The run in the next term begins after work has returned. Call Lead before Open.
func (n *Node) Lead(work func(ctx context.Context, term *Term) error) { n.work = append(n.work, work) }

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
	n.trans = raftguard.New(n.cfg.Network.Raft(), raftguard.Options{MaySend: n.mayCall, MayStand: n.diskProblem, Log: store.Log, Snapshots: store.Snapshots, Raft: n.raft.Load})
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
	if n.logs != nil {
		n.done.Go(func() { n.logs.Watch(ctx, n.cfg.Logger.With("node", n.cfg.Name)) })
	}
	n.done.Go(func() { n.cleanRestores(ctx) })
	if !n.alone() {
		if o := n.cfg.Gossip; o != nil {
			g, err := gossip.Open(*o, (*local)(n), n.cfg.Logger, n.cfg.Logger.With("node", n.cfg.Name))
			if err != nil {
				return err
			}
			n.gossip.Store(g)
			n.done.Go(func() { g.Run(ctx) })
		}
		n.done.Go(func() { n.memberLoop(ctx) })
		n.done.Go(func() { n.lossLoop(ctx) })
		n.done.Go(func() { n.watchReach(ctx) })
		n.done.Go(func() { n.watchSilentLeader(ctx) })
		n.done.Go(func() { n.repairLoop(ctx) })
	}
	return nil
}

// bootstrapAlone makes a new node without peers a group of one. It returns an error if the data is
// that of a member of a larger cluster, which must not start as if it were alone.
func (n *Node) bootstrapAlone(r *raft.Raft) error {
	if !n.alone() {
		return nil
	}
	servers := r.GetConfiguration().Configuration().Servers
	if len(servers) > 1 {
		return fmt.Errorf("the data directory %s belongs to a cluster of %d nodes, and no peers are configured: configure them, or make the node the only one with 'image-builder cluster recover' if the others are gone for good", n.dir.Path(), len(servers))
	}
	if len(servers) > 0 && n.dir.Identity().Initialized {
		return nil
	}
	if err := mayFormAlone(n.dir.Identity()); err != nil {
		return fmt.Errorf("the data directory %s belongs to a member of a cluster: %w, and no peers are configured: configure them, or give this node an empty directory", n.dir.Path(), err)
	}
	if err := n.bootstrap(n.dir.StoreID(), []datadir.Server{{ID: string(n.serverID()), Address: n.cfg.Network.Address(), Voter: true}}); err != nil {
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
	err = errors.Join(err, n.gossip.Swap(nil).Close(), n.cfg.Network.Close())
	if n.trans != nil {
		n.trans.Stop()
	}
	if n.logs != nil {
		err = errors.Join(err, n.logs.Close()) // pings may read its health still
	}
	return errors.Join(err, n.dir.Close())
}
