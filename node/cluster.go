package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/gossip"
	"github.com/image-builder-ha/image-builder/cluster/pki"
	"github.com/image-builder-ha/image-builder/cluster/transport"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/tracing"
)

// clusterConfig returns the configuration of the node's member of the Raft group. It opens the
// network on the listener of the peer port, unless peer is nil or Parts.Network is set.
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
		ConfirmReads:   n.ConfirmsReads,
		RestoreLevel:   builds.RestoreLevel,
		FloorLevel:     builds.FloorLevel,
		Keys: func() (out []string) {
			for _, id := range n.keyring.IDs() {
				out = append(out, "sealing/"+id)
			}
			return out
		},
		Serve:    []func(grpc.ServiceRegistrar){n.servePeers},
		LogWrite: n.logWrites.Oldest,
		Report: func(r *clusterv1.PingResponse) {
			r.Owned = uint32(n.owner.Running())
			r.SealingKeys = n.keyring.IDs()
			disk := errors.Join(n.cluster.Trouble(), n.logs.Trouble(), n.hangs())
			if err := errors.Join(disk, n.keyring.Problem(), n.logs.Copies().Trouble()); err != nil {
				r.Trouble, r.RefusesBuilds = err.Error(), disk != nil
			}
		},
	}
	if peer == nil || cfg.Network != nil {
		return cfg, nil
	}
	if g := c.Cluster.Gossip; g.Address != "" {
		keys, err := gossip.LoadKeys(g.KeyFile)
		if err != nil {
			return cfg, fmt.Errorf("cluster.gossip.keyFile: %w", err)
		}
		cfg.Gossip = &gossip.Options{Address: g.Address, Advertise: g.Advertise, Keys: keys}
	}
	var err error
	cfg.Network, err = n.newPeerNetwork(peer)
	return cfg, err
}

// newPeerNetwork returns the network with mutual TLS on the listener of the peer port. The
// certificate must be one of this node.
func (n *Node) newPeerNetwork(peer net.Listener) (transport.Network, error) {
	c := n.cfg
	certs, err := pki.LoadCerts(pki.CertFiles{CA: c.Cluster.TLS.CA, Cert: c.Cluster.TLS.Cert, Key: c.Cluster.TLS.Key}, n.log)
	if err != nil {
		return nil, fmt.Errorf("cluster.tls: %w", err)
	}
	id, err := certs.Identity()
	if err != nil {
		return nil, fmt.Errorf("cluster.tls: %w", err)
	}
	if id.Cluster != c.Cluster.Name || id.Role != pki.RoleNode || id.Name != "" && id.Name != c.Name {
		return nil, fmt.Errorf("cluster.tls: the certificate is for %s, but this is node %q of cluster %q: issue a certificate for this node", id, c.Name, c.Cluster.Name)
	}
	return transport.NewTLS(transport.TLSOptions{
		Cluster: c.Cluster.Name, Listener: peer, Advertise: c.PeerAddress, Certs: certs, Logger: n.log,
		Serving: tracing.ServerOption(n.tracing.Work(), clusterv1.Peer_Propose_FullMethodName),
		Calling: tracing.DialOption(n.tracing.Work(), clusterv1.Peer_Propose_FullMethodName),
	}), nil
}

// discover returns the addresses at which other nodes may be: those of the configuration, of pods
// and of DNS. It may return addresses together with an error.
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

// podPeers returns the addresses of the nodes that are pods of the configured Kubernetes service.
func (n *Node) podPeers(ctx context.Context) ([]string, error) {
	k := n.cfg.Cluster.Kubernetes
	if k.Service == "" {
		return nil, nil
	}
	client, err := n.kubernetesAPI()
	if err != nil {
		return nil, err
	}
	// The cluster waits two seconds for discover. An API server that hangs must leave time for the
	// other sources of addresses.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return kubernetes.Peers(ctx, client, k.Namespace, k.Service)
}
