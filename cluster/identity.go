package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

func (n *Node) identity() *clusterv1.Identity {
	return &clusterv1.Identity{
		Cluster: n.cfg.Cluster, ClusterId: n.dir.Identity().ClusterID, ServerId: string(n.serverID()),
		Address: n.cfg.Network.Address(), Zone: n.cfg.Zone, FeatureLevel: n.cfg.FeatureLevel, BootId: n.cfg.BootID,
		GossipAddress: n.gossip.Load().Address(), LastIndex: n.lastIndex(),
	}
}

// introduction returns the identity that a joining node presents: with the names of its keys.
func (n *Node) introduction() *clusterv1.Identity {
	id := n.identity()
	id.Keys = n.keys()
	return id
}

func (n *Node) keys() (out []string) {
	if n.cfg.Keys != nil {
		out = n.cfg.Keys()
	}
	if n.cfg.Gossip != nil {
		for _, k := range n.cfg.Gossip.Keys.Names() {
			out = append(out, "gossip/"+k)
		}
	}
	return out
}

// checkIdentity returns an error if a node cannot be in the same cluster as this one.
func (n *Node) checkIdentity(from *clusterv1.Identity) error {
	me := n.identity()
	switch level := n.cfg.CommittedLevel(); {
	case from.GetCluster() != me.Cluster:
		return fmt.Errorf("node %s is of cluster %q, node %s of %q: configure the same cluster name", from.GetServerId(), from.GetCluster(), me.ServerId, me.Cluster)
	case me.ClusterId != "" && from.GetClusterId() != "" && from.GetClusterId() != me.ClusterId:
		return fmt.Errorf("node %s belongs to another cluster (id %s, this one is %s): give it an empty data directory to make it a new member", from.GetServerId(), from.GetClusterId(), me.ClusterId)
	case from.GetFeatureLevel() < level:
		return fmt.Errorf("node %s runs a version of feature level %d, the cluster is at %d: start a newer version", from.GetServerId(), from.GetFeatureLevel(), level)
	}
	return nil
}

// checkNewMember returns an error if a node cannot become a member: it passes checkIdentity, and
// shares a key of each kind that both nodes have. The keys of a member are not checked, so that a
// key rotation in the wrong order does not cost the quorum.
func (n *Node) checkNewMember(from *clusterv1.Identity) error {
	if err := n.checkIdentity(from); err != nil {
		return err
	}
	return sharesKeys(from.GetServerId(), from.GetKeys(), n.keys())
}

func sharesKeys(who string, theirs, ours []string) error {
	byKind := func(keys []string) map[string][]string {
		m := map[string][]string{}
		for _, k := range keys {
			kind, name, _ := strings.Cut(k, "/")
			m[kind] = append(m[kind], name)
		}
		return m
	}
	have := byKind(ours)
	for kind, names := range byKind(theirs) {
		here := have[kind]
		if len(here) > 0 && !slices.ContainsFunc(names, func(k string) bool { return slices.Contains(here, k) }) {
			return fmt.Errorf("node %s holds none of the %s keys of this cluster (it holds %s, here are %s): give it the same key file",
				who, kind, strings.Join(names, " "), strings.Join(here, " "))
		}
	}
	return nil
}

// refuse logs, at most once in a while, that a node was refused, and returns reason as a gRPC
// error.
func (n *Node) refuse(what string, from *clusterv1.Identity, reason error) error {
	if n.refusals.Allow(from.GetServerId() + reason.Error()) {
		n.cfg.Logger.Warn("refused a node that wants to "+what, "node", from.GetServerId(), "address", from.GetAddress(), "reason", reason)
	}
	return status.Error(codes.FailedPrecondition, reason.Error())
}

// adopt makes the node a member of the cluster with the given id. It returns an error if the node
// is in another cluster or has promised to form another one.
func (n *Node) adopt(id string) error {
	return n.dir.Change(func(d *datadir.Identity) error {
		switch {
		case d.ClusterID == id:
			return nil
		case d.ClusterID != "":
			return fmt.Errorf("the node is in cluster %s already", d.ClusterID)
		case d.Promised != "" && d.Promised != id:
			return fmt.Errorf("the node has promised to form cluster %s with node %q, but was called by cluster %s", d.Promised, d.Proposer, id)
		}
		d.ClusterID, d.Initialized = id, true
		return nil
	})
}

// newID returns a random id of a cluster or of a restore.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
