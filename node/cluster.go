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
func (n *Node) clusterConfig(peer net.Listener) (cluster.Config, error) {
	c := n.cfg
	cfg := cluster.Config{
		Name:            c.Name,
		DataDir:         filepath.Join(c.DataDir, "raft"),
		StateMachine:    n.store,
		CheckSnapshot:   n.checkSnapshot,
		Prepare:         builds.Preparer{Keyring: n.keyring}.Prepare,
		MaxClockBack:    time.Duration(c.Clock.MaxJump),
		MaxClockAhead:   time.Duration(c.Clock.MaxJumpAhead),
		AcceptClockJump: c.Clock.AcceptJump,
		Logger:          n.log,
		Now:             n.parts.Now,

		SnapshotThreshold: uint64(c.Raft.SnapshotThreshold),
		SnapshotInterval:  time.Duration(c.Raft.SnapshotInterval),
		TrailingLogs:      uint64(c.Raft.TrailingLogs),
		SegmentBytes:      int(c.Raft.SegmentBytes),
		Heartbeat:         time.Duration(c.Raft.Heartbeat),
		Election:          time.Duration(c.Raft.Election),
		Lease:             time.Duration(c.Raft.Lease),

		PingInterval:  n.parts.PingInterval,
		CommitTimeout: n.parts.CommitTimeout,
		Network:       n.parts.Network,
		Storage:       n.parts.Storage,

		Cluster:        c.Cluster.Name,
		Discover:       n.discover,
		Expect:         c.Cluster.Expect,
		Voters:         c.Cluster.Voters,
		Zone:           c.Cluster.Zone,
		BootID:         n.bootID,
		PruneAfter:     time.Duration(c.Cluster.PruneAfter),
		FeatureLevel:   builds.FeatureLevel,
		CommittedLevel: n.level,
		Keys: func() (out []string) {
			for _, id := range n.keyring.IDs() {
				out = append(out, "sealing/"+id)
			}
			return out
		},
		Serve: []func(grpc.ServiceRegistrar){n.servePeers},
		Report: func(r *clusterv1.PingResponse) {
			r.Owned = uint32(n.owner.Running())
			r.SealingKeys = n.keyring.IDs()
			disk := errors.Join(n.cluster.Trouble(), n.logs.Trouble())
			if err := errors.Join(disk, n.keyring.Trouble(), n.logs.Copies().Trouble()); err != nil {
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
	certs, err := pki.LoadCerts(pki.CertFiles{CA: c.Cluster.TLS.CA, Cert: c.Cluster.TLS.Cert, Key: c.Cluster.TLS.Key}, n.log)
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
		Cluster: c.Cluster.Name, Listener: peer, Advertise: c.PeerAddress, Certs: certs, Logger: n.log,
		Serving: tracing.ServerOption(n.tracing.Work(), clusterv1.Peer_Propose_FullMethodName),
		Calling: tracing.DialOption(n.tracing.Work(), clusterv1.Peer_Propose_FullMethodName),
	})
	return cfg, nil
}

// discover answers where other nodes may be.
func (n *Node) discover(ctx context.Context) ([]string, error) {
	all := append([]string(nil), n.cfg.Cluster.Peers...)
	pods, podsErr := n.podPeers(ctx)
	all = append(all, pods...)
	if n.cfg.Cluster.DNS == "" {
		return all, podsErr
	}
	host, port, err := net.SplitHostPort(n.cfg.Cluster.DNS)
	if err != nil {
		return all, err
	}
	found, err := net.DefaultResolver.LookupHost(ctx, host)
	for _, a := range found {
		all = append(all, net.JoinHostPort(a, port))
	}
	return all, errors.Join(err, podsErr)
}

func (n *Node) level() (level uint32) {
	n.store.Read(func(st *builds.State) { level = st.Level() })
	return level
}

// lead is the work of the leader for one term.
func (n *Node) lead(ctx context.Context, term *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, n.work)
	defer cancel()
	return scheduler.NewLeader(scheduler.LeaderOptions{
		Store: n.store, Raft: termAdapter{n.raft, term}, Log: n.log, Now: term.Now, Settings: settingsOf(n.cfg),
		Nodes: liveness{n.cluster, &n.restoring}, LostAfter: time.Duration(n.cfg.Owner.Lease + n.cfg.Owner.Grace), Runtime: n.runtimeOf,
		Adoptable: n.adoptable, Replicas: n.cfg.Logs.Copies, FenceTimeout: time.Duration(n.cfg.Logs.FenceTimeout),
		Retention: scheduler.Retention{Age: time.Duration(n.cfg.Logs.Retention), TotalBytes: n.cfg.Logs.TotalBytes}, Expired: n.counters.logsExpired,
		Tracer: n.tracing.Tracer(tracing.Scope),
	}).Run(ctx)
}

// reap stops workloads that outlived their attempts, for one term. A workspace
// manager may have another image builder, as while one takes another's place.
func (n *Node) reapWorkloads(ctx context.Context, _ *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, n.work)
	defer cancel()
	r := scheduler.Reaper{Store: n.store, Raft: n.raft, Runtimes: n.runtimes, Shared: []string{wsmanager.Name}, Log: n.log}
	return r.Run(ctx)
}

// waiting tells why queued builds of a state wait.
func (n *Node) waiting(st *builds.State) func(*buildsv1.Record) string {
	return scheduler.NewWaiting(st, time.Now(), n.runtimeOf, n.cfg.Logs.Copies).Reason
}

// raiseLevel puts the greatest feature level into force that all members know
// and the configuration allows, for one term. A snapshot that is restored may
// bring a lower one.
func (n *Node) raiseLevel(ctx context.Context, term *cluster.Term) error {
	highest := uint32(builds.FeatureLevel)
	if hold := n.cfg.Cluster.Level; hold != 0 {
		highest = min(highest, uint32(hold))
	}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		if n.level() < highest {
			n.raiseLevelTo(ctx, term, highest)
		}
		if !ctxutil.Sleep(ctx, wait) {
			return nil
		}
	}
}

func (n *Node) raiseLevelTo(ctx context.Context, term *cluster.Term, highest uint32) {
	known := highest
	for _, m := range n.cluster.Members() {
		known = min(known, m.Answer.GetNode().GetFeatureLevel())
	}
	if known <= n.level() {
		return
	}
	if _, _, err := builds.Propose(ctx, termAdapter{n.raft, term}, &buildsv1.SetFeatureLevel{Level: known}); err == nil {
		n.log.Info("the cluster's feature level was raised", "level", known)
	}
}

// keepLease stops this node's attempts when it hears no leader for too long,
// and makes a node known again that was taken for lost.
func (n *Node) keepLease(ctx context.Context) error {
	lease := time.Duration(n.cfg.Owner.Lease)
	held := false
	for ctxutil.Sleep(ctx, lease/20) {
		contact := n.cluster.Status().LastContact
		if heard := contact >= 0 && contact < lease; heard != held {
			if held = heard; !held {
				n.log.Warn("no leader is heard: stops the attempts of this node", "for", contact, "lease", lease)
			} else {
				n.owner.LeaseHeld()
			}
		}
		if !held {
			n.owner.LeaseLost()
			continue
		}
		var me *buildsv1.Node
		n.store.Read(func(st *builds.State) { me = st.Node(n.cfg.Name) })
		if n.started.Load() && (me.GetLost() || me.GetBootId() != n.bootID) {
			n.log.Info("the state does not know this process (any more): makes it known again")
			n.register(ctx)
		}
	}
	return nil
}

// adoptable reports whether a runtime's workloads outlive their node.
func (n *Node) adoptable(runtime string) bool {
	rt := n.runtimes[runtime]
	return rt != nil && rt.Survives()
}
