package node

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/pki"
	"github.com/image-builder-ha/image-builder/faults"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/tracing"
)

// clusterConfig describes this node to its cluster.
func (s *server) clusterConfig(peer net.Listener) (cluster.Config, error) {
	c := s.cfg
	cfg := cluster.Config{
		Name:            c.Name,
		DataDir:         filepath.Join(c.DataDir, "raft"),
		StateMachine:    s.store,
		CheckSnapshot:   s.checkSnapshot,
		Prepare:         builds.Preparer{Keyring: s.keyring}.Prepare,
		MaxClockBack:    time.Duration(c.Clock.MaxJump),
		MaxClockAhead:   time.Duration(c.Clock.MaxJumpAhead),
		AcceptClockJump: c.Clock.AcceptJump,
		Logger:          s.log,
		Now:             func() time.Time { return faults.Clock(time.Now()) },

		SnapshotThreshold: uint64(c.Raft.SnapshotThreshold),
		SnapshotInterval:  time.Duration(c.Raft.SnapshotInterval),
		TrailingLogs:      uint64(c.Raft.TrailingLogs),
		SegmentBytes:      int(c.Raft.SegmentBytes),
		Heartbeat:         time.Duration(c.Raft.Heartbeat),
		Election:          time.Duration(c.Raft.Election),
		Lease:             time.Duration(c.Raft.Lease),

		Cluster:        c.Cluster.Name,
		Discover:       s.discover,
		Expect:         c.Cluster.Expect,
		Voters:         c.Cluster.Voters,
		Zone:           c.Cluster.Zone,
		BootID:         s.boot,
		PruneAfter:     time.Duration(c.Cluster.PruneAfter),
		FeatureLevel:   builds.FeatureLevel,
		CommittedLevel: s.level,
		Keys: func() (out []string) {
			for _, id := range s.keyring.IDs() {
				out = append(out, "sealing/"+id)
			}
			return out
		},
		Serve: []func(grpc.ServiceRegistrar){s.servePeers},
		Report: func(r *clusterv1.PingResponse) {
			r.Owned = uint32(s.owner.Running())
			r.SealingKeys = s.keyring.IDs()
			disk := errors.Join(s.node.Trouble(), s.logs.Trouble())
			if err := errors.Join(disk, s.keyring.Problem(), s.logs.Copies().Trouble()); err != nil {
				r.Trouble, r.RefusesBuilds = err.Error(), disk != nil
			}
		},
	}
	if peer == nil {
		return cfg, nil
	}
	if g := c.Cluster.Gossip; g.Address != "" {
		keys, err := cluster.LoadGossipKeys(g.KeyFile)
		if err != nil {
			return cfg, fmt.Errorf("cluster.gossip.keyFile: %w", err)
		}
		cfg.Gossip = &cluster.GossipOptions{Address: g.Address, Advertise: g.Advertise, Keys: keys}
	}
	certs, err := pki.LoadCerts(pki.CertFiles{CA: c.Cluster.TLS.CA, Cert: c.Cluster.TLS.Cert, Key: c.Cluster.TLS.Key}, s.log)
	if err != nil {
		return cfg, fmt.Errorf("cluster.tls: %w", err)
	}
	id, err := certs.Identity()
	if err != nil {
		return cfg, fmt.Errorf("cluster.tls: %w", err)
	}
	if id.Cluster != c.Cluster.Name || id.Role != pki.RoleNode || id.Name != "" && id.Name != c.Name {
		return cfg, fmt.Errorf("cluster.tls: the certificate is for %s, this is node %q of cluster %q: issue one for it", id, c.Name, c.Cluster.Name)
	}
	cfg.Network = cluster.NewTLSNetwork(cluster.TLSOptions{
		Cluster: c.Cluster.Name, Listener: peer, Advertise: c.PeerAddress, Certs: certs, Logger: s.log,
		Serving: tracing.ServerOption(s.tracing.Work(), clusterv1.Peer_Propose_FullMethodName),
		Calling: tracing.DialOption(s.tracing.Work(), clusterv1.Peer_Propose_FullMethodName),
	})
	return cfg, nil
}

// discover answers where other nodes may be.
func (s *server) discover(ctx context.Context) ([]string, error) {
	all := append([]string(nil), s.cfg.Cluster.Peers...)
	pods, podsErr := s.podPeers(ctx)
	all = append(all, pods...)
	if s.cfg.Cluster.DNS == "" {
		return all, podsErr
	}
	host, port, err := net.SplitHostPort(s.cfg.Cluster.DNS)
	if err != nil {
		return all, err
	}
	found, err := net.DefaultResolver.LookupHost(ctx, host)
	for _, a := range found {
		all = append(all, net.JoinHostPort(a, port))
	}
	return all, errors.Join(err, podsErr)
}

func (s *server) level() (level uint32) {
	s.store.Read(func(st *builds.State) { level = st.Level() })
	return level
}

// lead is the work of the leader for one term.
func (s *server) lead(ctx context.Context, term *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, s.work)
	defer cancel()
	return scheduler.NewLeader(scheduler.LeaderOptions{
		Store: s.store, Raft: termAdapter{s.raft, term}, Log: s.log, Now: term.Now, Settings: settingsOf(s.cfg),
		Nodes: liveness{s.node, &s.restoring}, LostAfter: time.Duration(s.cfg.Owner.Lease + s.cfg.Owner.Grace), Runtime: s.runtimeOf,
		Adoptable: s.adoptable, Replicas: s.cfg.Logs.Copies, FenceTimeout: time.Duration(s.cfg.Logs.FenceTimeout),
		Retention: scheduler.Retention{Age: time.Duration(s.cfg.Logs.Retention), TotalBytes: s.cfg.Logs.TotalBytes}, Expired: s.count.logsExpired,
		Tracer: s.tracing.Tracer(tracing.Scope),
	}).Run(ctx)
}

// reap stops workloads that outlived their attempts, for one term. A workspace
// manager may have another image builder, as while one takes another's place.
func (s *server) reap(ctx context.Context, _ *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, s.work)
	defer cancel()
	r := scheduler.Reaper{Store: s.store, Raft: s.raft, Runtimes: s.runtimes, Shared: []string{wsmanager.Name}, Log: s.log}
	return r.Run(ctx)
}

// waiting tells why queued builds of a state wait.
func (s *server) waiting(st *builds.State) func(*buildsv1.Record) string {
	return scheduler.NewWaiting(st, time.Now(), s.runtimeOf, s.cfg.Logs.Copies).Reason
}

// raiseLevel puts the greatest feature level into force that all members know
// and the configuration allows, for one term. A snapshot that is restored may
// bring a lower one.
func (s *server) raiseLevel(ctx context.Context, term *cluster.Term) error {
	highest := uint32(builds.FeatureLevel)
	if hold := s.cfg.Cluster.Level; hold != 0 {
		highest = min(highest, uint32(hold))
	}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		if s.level() < highest {
			s.raise(ctx, term, highest)
		}
		if !ctxutil.Sleep(ctx, wait) {
			return nil
		}
	}
}

func (s *server) raise(ctx context.Context, term *cluster.Term, highest uint32) {
	known := highest
	for _, m := range s.node.Members() {
		known = min(known, m.Answer.GetNode().GetFeatureLevel())
	}
	if known <= s.level() {
		return
	}
	if _, _, err := builds.Propose(ctx, termAdapter{s.raft, term}, &buildsv1.SetFeatureLevel{Level: known}); err == nil {
		s.log.Info("the cluster's feature level was raised", "level", known)
	}
}

// keepLease stops this node's attempts when it hears no leader for too long,
// and makes a node known again that was taken for lost.
func (s *server) keepLease(ctx context.Context) error {
	lease := time.Duration(s.cfg.Owner.Lease)
	held := false
	for ctxutil.Sleep(ctx, lease/20) {
		contact := s.node.Status().LastContact
		if heard := contact >= 0 && contact < lease; heard != held {
			if held = heard; !held {
				s.log.Warn("no leader is heard: stops the attempts of this node", "for", contact, "lease", lease)
			} else {
				s.owner.LeaseHeld()
			}
		}
		if !held {
			s.owner.LeaseLost()
			continue
		}
		var me *buildsv1.Node
		s.store.Read(func(st *builds.State) { me = st.Node(s.cfg.Name) })
		if s.started.Load() && (me.GetLost() || me.GetBootId() != s.boot) {
			s.log.Info("the state does not know this process (any more): makes it known again")
			s.register(ctx)
		}
	}
	return nil
}

// adoptable reports whether a runtime's workloads outlive their node.
func (s *server) adoptable(runtime string) bool {
	rt := s.runtimes[runtime]
	return rt != nil && rt.Survives()
}

// liveness shows the scheduler what the cluster knows.
type liveness struct {
	node      *cluster.Node
	restoring *atomic.Bool
}

var _ scheduler.Liveness = liveness{}

func (l liveness) Peer(name, storeID string) (string, time.Duration, bool) {
	p := l.node.Peer(name, storeID)
	return p.BootID, p.Silent, p.Dead
}

func (l liveness) Takes(name, storeID string) bool {
	return !l.restoring.Load() && !l.node.Peer(name, storeID).RefusesBuilds
}

func (l liveness) Member(name, storeID string) bool {
	return slices.ContainsFunc(l.node.Members(), func(m cluster.Member) bool { return m.ServerID == name+"/"+storeID })
}

func (l liveness) PeersChanged() <-chan struct{} { return l.node.PeersChanged() }

// termAdapter commits as the leader of one term.
type termAdapter struct {
	raftAdapter
	term *cluster.Term
}

var _ builds.Raft = termAdapter{}

func (a termAdapter) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	res, err := a.term.Propose(ctx, cmd)
	if err != nil {
		return 0, nil, clusterError(err)
	}
	return res.Index, res.Result, nil
}

// holdTime is how long a call without a deadline waits for a leader.
const holdTime = 5 * time.Second

// hold bounds the wait for a leader, so that the answer is still in time.
func hold(ctx context.Context) (context.Context, context.CancelFunc) {
	d := holdTime
	if t, ok := ctx.Deadline(); ok {
		left := time.Until(t)
		d = min(d, left-min(left/10, 300*time.Millisecond))
	}
	return context.WithTimeout(ctx, d)
}

// unknownPause is the pause before a command whose outcome is unknown is
// proposed again. All commands can be repeated: builds carry request ids,
// attempts epochs, decisions versions.
func unknownPause() time.Duration { return 2*time.Millisecond + mathrand.N(5*time.Millisecond) }

// handOver gives up leadership before the node ends.
func (s *server) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if s.level() >= 2 && s.started.Load() {
		_, _, err := builds.Propose(ctx, s.raft, &buildsv1.NodeStopping{Name: s.cfg.Name, StoreId: s.node.StoreID(), BootId: s.boot})
		if err != nil {
			s.log.Warn("cannot tell the cluster that this node stops", "err", err)
		}
	}
	if s.node.Status().Role == "Leader" && len(s.node.Members()) > 1 {
		if err := s.node.TransferLeadership(ctx, ""); err != nil && !errors.Is(err, cluster.ErrNoLeader) {
			s.log.Warn("cannot hand leadership over", "err", err)
		}
	}
}

// drain lets running builds end that cannot go on under another node.
func (s *server) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.cfg.Shutdown.Drain))
	defer cancel()
	for n := -1; ; {
		left := s.owner.Running()
		if left == 0 {
			return
		}
		if left != n {
			n = left
			s.log.Info("waits for builds that run here", "builds", n, "at most", time.Duration(s.cfg.Shutdown.Drain))
		}
		if !ctxutil.Sleep(ctx, 50*time.Millisecond) {
			return
		}
	}
}
