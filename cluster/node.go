package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Node is one member of the Raft group. New, Lead as often as needed, Open,
// and at the end Close.
type Node struct {
	cfg  Config
	fsm  *fsm
	dir  *dataDir
	logs *logStore
	raft *raft.Raft

	trans raft.Transport
	work  []func(context.Context) error
	clock *clock
	reads readBatches

	mu      sync.Mutex
	leads   bool          // this node leads and has applied a command of its term
	term    uint64        // the term it leads in
	changed chan struct{} // closed and replaced when leads changes

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
	dir, err := openDataDir(cfg.DataDir, cfg.Name)
	if err != nil {
		return nil, err
	}
	return &Node{
		cfg: cfg, dir: dir, fsm: newFSM(cfg.StateMachine), changed: make(chan struct{}),
		clock: newClock(cfg.Now), stop: func() {}, closed: make(chan struct{}),
	}, nil
}

// Lead registers work of the leader. It runs under a context that ends with
// the term; the next term's run begins after it returned. Call before Open.
func (n *Node) Lead(work func(ctx context.Context) error) { n.work = append(n.work, work) }

// StoreID is the random id of the data directory.
func (n *Node) StoreID() string { return n.dir.id.StoreID }

// serverID is the node's Raft server id: a wiped disk makes another server.
func (n *Node) serverID() raft.ServerID {
	return raft.ServerID(n.cfg.Name + "/" + n.dir.id.StoreID)
}

// Open verifies the data directory, starts Raft and, on the first start,
// bootstraps a group of one. It does not wait for a leader.
func (n *Node) Open(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	first := !n.dir.id.Initialized
	if n.logs, err = openLogStore(n.dir.path, n.cfg.SegmentBytes, first); err != nil {
		return err
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(n.dir.path, 2, n.logger())
	if err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	newest, err := n.verifySnapshots(snaps)
	if err != nil {
		return err
	}
	lastTime, err := n.logs.verify(n.dir.path, newest, n.dir.id.Initialized)
	if err != nil {
		return err
	}
	_, n.trans = raft.NewInmemTransport(raft.ServerAddress(n.cfg.PeerAddress))
	conf := n.raftConfig()
	if first {
		if err := raft.BootstrapCluster(conf, n.logs, n.logs, snaps, n.trans, raft.Configuration{Servers: []raft.Server{{
			Suffrage: raft.Voter, ID: conf.LocalID, Address: n.trans.LocalAddr(),
		}}}); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
		if err := n.dir.initialized(); err != nil {
			return err
		}
	}
	if n.raft, err = raft.NewRaft(conf, n.fsm, n.logs, n.logs, snaps, n.trans); err != nil {
		return fmt.Errorf("start Raft: %w", err)
	}
	if err := n.checkClock(max(lastTime, n.cfg.StateMachine.LastTime())); err != nil {
		return err
	}
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	n.done.Go(func() { n.leaderLoop(ctx) })
	return nil
}

func (n *Node) raftConfig() *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = n.serverID()
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = n.cfg.Heartbeat, n.cfg.Election, n.cfg.Lease
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
	if n.raft == nil {
		return s
	}
	_, id := n.raft.LeaderWithID()
	s.Role = n.raft.State().String()
	s.LeaderID = string(id)
	s.LeaderName, _, _ = strings.Cut(s.LeaderID, "/")
	s.Term = n.raft.CurrentTerm()
	if n.raft.State() != raft.Leader {
		if t := n.raft.LastContact(); !t.IsZero() {
			s.LastContact = time.Since(t)
		}
	}
	return s
}

// Snapshot takes a snapshot now. It is no error if there is nothing new.
func (n *Node) Snapshot(ctx context.Context) error {
	err := await(ctx, n.raft.Snapshot())
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
	if n.raft != nil {
		err = n.raft.Shutdown().Error()
	}
	n.done.Wait()
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
	s.log.Log(context.Background(), to, name+": "+msg, args...)
}
