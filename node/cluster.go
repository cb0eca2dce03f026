package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/pki"

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
func (s *Node) clusterConfig(peer net.Listener) (cluster.Config, error) {
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
		Now:             s.parts.Now,

		SnapshotThreshold: uint64(c.Raft.SnapshotThreshold),
		SnapshotInterval:  time.Duration(c.Raft.SnapshotInterval),
		TrailingLogs:      uint64(c.Raft.TrailingLogs),
		SegmentBytes:      int(c.Raft.SegmentBytes),
		Heartbeat:         time.Duration(c.Raft.Heartbeat),
		Election:          time.Duration(c.Raft.Election),
		Lease:             time.Duration(c.Raft.Lease),

		PingInterval:  s.parts.PingInterval,
		CommitTimeout: s.parts.CommitTimeout,
		Network:       s.parts.Network,
		Storage:       s.parts.Storage,

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
			disk := errors.Join(s.cluster.Trouble(), s.logs.Trouble())
			if err := errors.Join(disk, s.keyring.Problem(), s.logs.Copies().Trouble()); err != nil {
				r.Trouble, r.RefusesBuilds = err.Error(), disk != nil
			}
		},
	}
	if peer == nil || cfg.Network != nil {
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
func (s *Node) discover(ctx context.Context) ([]string, error) {
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

func (s *Node) level() (level uint32) {
	s.store.Read(func(st *builds.State) { level = st.Level() })
	return level
}

// lead is the work of the leader for one term.
func (s *Node) lead(ctx context.Context, term *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, s.work)
	defer cancel()
	return scheduler.NewLeader(scheduler.LeaderOptions{
		Store: s.store, Raft: termAdapter{s.raft, term}, Log: s.log, Now: term.Now, Settings: settingsOf(s.cfg),
		Nodes: liveness{s.cluster, &s.restoring}, LostAfter: time.Duration(s.cfg.Owner.Lease + s.cfg.Owner.Grace), Runtime: s.runtimeOf,
		Adoptable: s.adoptable, Replicas: s.cfg.Logs.Copies, FenceTimeout: time.Duration(s.cfg.Logs.FenceTimeout),
		Retention: scheduler.Retention{Age: time.Duration(s.cfg.Logs.Retention), TotalBytes: s.cfg.Logs.TotalBytes}, Expired: s.count.logsExpired,
		Tracer: s.tracing.Tracer(tracing.Scope),
	}).Run(ctx)
}

// reap stops workloads that outlived their attempts, for one term. A workspace
// manager may have another image builder, as while one takes another's place.
func (s *Node) reap(ctx context.Context, _ *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, s.work)
	defer cancel()
	r := scheduler.Reaper{Store: s.store, Raft: s.raft, Runtimes: s.runtimes, Shared: []string{wsmanager.Name}, Log: s.log}
	return r.Run(ctx)
}

// waiting tells why queued builds of a state wait.
func (s *Node) waiting(st *builds.State) func(*buildsv1.Record) string {
	return scheduler.NewWaiting(st, time.Now(), s.runtimeOf, s.cfg.Logs.Copies).Reason
}

// raiseLevel puts the greatest feature level into force that all members know
// and the configuration allows, for one term. A snapshot that is restored may
// bring a lower one.
func (s *Node) raiseLevel(ctx context.Context, term *cluster.Term) error {
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

func (s *Node) raise(ctx context.Context, term *cluster.Term, highest uint32) {
	known := highest
	for _, m := range s.cluster.Members() {
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
func (s *Node) keepLease(ctx context.Context) error {
	lease := time.Duration(s.cfg.Owner.Lease)
	held := false
	for ctxutil.Sleep(ctx, lease/20) {
		contact := s.cluster.Status().LastContact
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
func (s *Node) adoptable(runtime string) bool {
	rt := s.runtimes[runtime]
	return rt != nil && rt.Survives()
}
