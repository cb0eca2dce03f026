package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	"github.com/image-builder-ha/image-builder/cluster/serverid"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Timing of the membership. joinInterval and memberInterval are the mean pauses between two checks
// of the membership, before and after the node is a member. helloTimeout and joinTimeout limit one
// call.
const (
	joinInterval   = 200 * time.Millisecond
	memberInterval = 2 * time.Second
	helloTimeout   = 2 * time.Second
	joinTimeout    = 10 * time.Second
)

// memberLoop makes the node a member of its cluster and keeps it one, even after its address has
// changed. It tries to join a cluster first, and forms one only if there is none. It returns when
// ctx ends.
func (n *Node) memberLoop(ctx context.Context) {
	loggedAt := time.Time{}
	for {
		reason := n.ensureMember(ctx)
		d := memberInterval
		if reason != "" {
			d = joinInterval
			if now := time.Now(); now.Sub(loggedAt) > 5*time.Second {
				n.cfg.Logger.Info("waits for its cluster", "node", n.cfg.Name, "reason", reason)
				loggedAt = now
			}
		}
		t := time.NewTimer(d/2 + rand.N(d))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-n.recheck:
			t.Stop()
		}
	}
}

// Leave stops the node from joining its cluster again after it is removed; Leave(false) allows it
// again. It blocks until a join or a formation that is in progress has ended.
func (n *Node) Leave(leaves bool) {
	n.joining.Lock()
	defer n.joining.Unlock()
	n.leaving = leaves
}

// ensureMember takes the next step towards membership. It returns the reason why the node is not
// yet a member, or "" if there is nothing left to wait for.
func (n *Node) ensureMember(ctx context.Context) string {
	n.joining.Lock()
	defer n.joining.Unlock()
	if n.leaving {
		return ""
	}
	id := n.dir.Identity()
	if len(id.Bootstrap) > 0 {
		if err := n.bootstrap(id.ClusterID, id.Bootstrap); err != nil {
			return err.Error()
		}
	}
	if id.ClusterID != "" && n.registered() {
		return ""
	}
	hellos, silent := n.helloAll(ctx)
	if len(hellos) == 0 && n.cfg.Expect != 1 {
		return "no other node responds" + silent
	}
	for _, h := range hellos {
		if h.GetNode().GetClusterId() == "" {
			continue
		}
		if err := n.checkIdentity(h.GetNode()); err != nil {
			return err.Error()
		}
	}
	if reason, found := n.joinAny(ctx, hellos); found {
		return reason
	}
	if id.ClusterID != "" {
		return "no leader is known to any node that responds"
	}
	return n.form(ctx, hellos, silent)
}

// registered reports whether a leader is known and Raft's configuration has this node at its
// current address.
func (n *Node) registered() bool {
	r := n.raft.Load()
	if _, leader := r.LeaderWithID(); leader == "" {
		return false
	}
	return slices.ContainsFunc(r.GetConfiguration().Configuration().Servers, func(s raft.Server) bool {
		return s.ID == n.serverID() && string(s.Address) == n.cfg.Network.Address()
	})
}

// helloAll calls Hello at all known addresses and returns the responses of other nodes, one for
// each server id, sorted by it. silent describes at most three addresses that do not respond.
func (n *Node) helloAll(ctx context.Context) (out []*clusterv1.HelloResponse, silent string) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	addresses := map[string]bool{}
	if n.cfg.Discover != nil {
		found, err := n.cfg.Discover(ctx)
		if err != nil {
			n.cfg.Logger.Warn("cannot discover peers", "node", n.cfg.Name, "err", err)
		}
		for _, a := range found {
			addresses[a] = true
		}
	}
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		addresses[n.addressOf(s.ID)] = true
	}
	delete(addresses, "")
	delete(addresses, n.cfg.Network.Address())
	var mu sync.Mutex
	var wg sync.WaitGroup
	byID := map[string]*clusterv1.HelloResponse{}
	var errs []string
	for a := range addresses {
		wg.Go(func() {
			res, err := n.hello(ctx, a)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, "; "+a+": "+status.Convert(err).Message())
				return
			}
			if res.GetNode().GetServerId() == string(n.serverID()) {
				return
			}
			byID[res.Node.ServerId] = res
		})
	}
	wg.Wait()
	for _, res := range byID {
		out = append(out, res)
	}
	slices.SortFunc(out, func(a, b *clusterv1.HelloResponse) int { return cmp.Compare(a.Node.ServerId, b.Node.ServerId) })
	slices.Sort(errs)
	return out, strings.Join(errs[:min(len(errs), 3)], "")
}

func (n *Node) hello(ctx context.Context, address string) (*clusterv1.HelloResponse, error) {
	conn, err := n.cfg.Network.Conn("", address)
	if err != nil {
		return nil, err
	}
	res, err := clusterv1.NewPeerClient(conn).Hello(ctx, &clusterv1.HelloRequest{From: n.identity()})
	if err != nil {
		return nil, err
	}
	n.book.note(res.GetNode())
	return res, nil
}

// joinAny asks the nodes that know a leader, one after the other, to add this node to their
// cluster. It ends with the first success and then returns "". found reports whether there is a
// cluster.
func (n *Node) joinAny(ctx context.Context, hellos []*clusterv1.HelloResponse) (reason string, found bool) {
	reason = "the cluster has no leader"
	for _, h := range hellos {
		if h.GetNode().GetClusterId() == "" {
			continue
		}
		found = true
		if h.GetLeaderAddress() == "" {
			continue
		}
		if slices.ContainsFunc(h.GetMembers(), func(m *clusterv1.Member) bool {
			return m.ServerId == string(n.serverID()) && m.Address == n.cfg.Network.Address()
		}) && n.dir.Identity().ClusterID != "" {
			return "", true // the leader sends the log
		}
		conn, err := n.cfg.Network.Conn("", h.GetNode().GetAddress())
		if err != nil {
			reason = err.Error()
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, joinTimeout)
		res, err := clusterv1.NewPeerClient(conn).Join(ctx, &clusterv1.JoinRequest{From: n.introduction()})
		cancel()
		if err == nil {
			err = n.adopt(res.GetClusterId())
		}
		if err == nil {
			return "", true
		}
		reason = status.Convert(err).Message()
	}
	return reason, found
}

// form bootstraps a new cluster of exactly Config.Expect nodes. Only the node with the lowest
// server id does so, and only after all the others have promised to form the cluster with it. It
// returns the reason why there is no cluster yet, or "".
func (n *Node) form(ctx context.Context, hellos []*clusterv1.HelloResponse, silent string) string {
	if n.cfg.Expect == 0 {
		return "no node that responds is in a cluster"
	}
	servers := []datadir.Server{{ID: string(n.serverID()), Address: n.cfg.Network.Address()}}
	names := map[string]bool{n.cfg.Name: true}
	for _, h := range hellos {
		if int(h.GetExpect()) != n.cfg.Expect {
			return fmt.Sprintf("node %s expects %d nodes, this one expects %d: configure the same number on both", h.Node.ServerId, h.GetExpect(), n.cfg.Expect)
		}
		if err := n.checkIdentity(h.GetNode()); err != nil {
			return err.Error()
		}
		names[serverid.Name(raft.ServerID(h.Node.ServerId))] = true
		servers = append(servers, datadir.Server{ID: h.Node.ServerId, Address: h.Node.Address})
	}
	switch {
	case len(servers) != n.cfg.Expect:
		return fmt.Sprintf("%d nodes respond (this one included), but %d are expected%s", len(servers), n.cfg.Expect, silent)
	case len(names) != len(servers):
		return "two nodes have the same name"
	}
	slices.SortFunc(servers, func(a, b datadir.Server) int { return strings.Compare(a.ID, b.ID) })
	if servers[0].ID != string(n.serverID()) {
		return fmt.Sprintf("node %s forms the cluster", servers[0].ID)
	}
	id, err := n.promise(n.cfg.Name, newID())
	if err != nil {
		return err.Error()
	}
	for i, s := range servers {
		servers[i].Voter = i < n.cfg.Voters
		if i == 0 {
			continue
		}
		if err := n.requestPromise(ctx, s, id); err != nil {
			return err.Error()
		}
	}
	if err := n.bootstrap(id, servers); err != nil {
		return err.Error()
	}
	return ""
}

func (n *Node) requestPromise(ctx context.Context, s datadir.Server, id string) error {
	conn, err := n.cfg.Network.Conn("", s.Address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	res, err := clusterv1.NewPeerClient(conn).Promise(ctx, &clusterv1.PromiseRequest{From: n.introduction(), ClusterId: id})
	if err != nil {
		return fmt.Errorf("node %s does not promise to form a cluster: %s", s.ID, status.Convert(err).Message())
	}
	if res.GetClusterId() != id {
		return fmt.Errorf("node %s has promised to form a cluster with node %q: start that node, or empty the data directory of %s", s.ID, res.GetProposer(), s.ID)
	}
	return nil
}

// promise binds this node to the cluster id of a proposer, unless the node is bound already. It
// returns the id of the cluster to which the node is bound. A proposer other than this node may
// replace its own id. It returns an error if the node is in a cluster.
func (n *Node) promise(proposer, id string) (bound string, err error) {
	err = n.dir.Change(func(d *datadir.Identity) error {
		if d.ClusterID != "" {
			return status.Errorf(codes.FailedPrecondition, "node %s is in a cluster already", n.cfg.Name)
		}
		if d.Promised == "" || (d.Proposer == proposer && proposer != n.cfg.Name) {
			d.Promised, d.Proposer = id, proposer
		}
		bound = d.Promised
		return nil
	})
	return bound, err
}

// bootstrap writes the first configuration into Raft's log. The identity file holds the
// configuration until that is done, so that a crash in between does not lose it. bootstrap can be
// called again.
func (n *Node) bootstrap(id string, servers []datadir.Server) error {
	if err := n.dir.Change(func(d *datadir.Identity) error {
		d.ClusterID, d.Initialized, d.Bootstrap = id, true, servers
		return nil
	}); err != nil {
		return err
	}
	var conf raft.Configuration
	for _, s := range servers {
		suffrage := raft.Nonvoter
		if s.Voter {
			suffrage = raft.Voter
		}
		conf.Servers = append(conf.Servers, raft.Server{Suffrage: suffrage, ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Address)})
	}
	if err := n.raft.Load().BootstrapCluster(conf).Error(); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("bootstrap: %w", err)
	}
	n.cfg.Logger.Info("formed a cluster", "node", n.cfg.Name, "cluster_id", id, "nodes", len(servers))
	return n.dir.Change(func(d *datadir.Identity) error { d.Bootstrap, d.Promised, d.Proposer = nil, "", ""; return nil })
}

// undoPartOfBootstrap makes an interrupted bootstrap possible again. Raft stores the term of the
// first configuration before the configuration itself, and then refuses to bootstrap because there
// is a term. Nothing depends on that term: the node has no entry and no snapshot, and has not
// voted.
func (n *Node) undoPartOfBootstrap(store Storage, lastIndex uint64) error {
	if len(n.dir.Identity().Bootstrap) == 0 || lastIndex > 0 {
		return nil
	}
	snaps, err := store.Snapshots.List()
	if err != nil || len(snaps) > 0 {
		return err
	}
	if voted, err := store.Stable.GetUint64([]byte("LastVoteTerm")); err == nil && voted > 0 {
		return nil
	}
	if term, err := store.Stable.GetUint64([]byte("CurrentTerm")); err != nil || term != 1 {
		return nil // an error means that there is none
	}
	return store.Stable.SetUint64([]byte("CurrentTerm"), 0)
}

// mayFormAlone returns an error if a node that has no configuration of Raft yet must not bootstrap
// a group of one: it is a member of another cluster whose log it has not received, or it has
// promised to form one.
func mayFormAlone(d datadir.Identity) error {
	switch {
	case d.ClusterID != "" && d.ClusterID != d.StoreID:
		return fmt.Errorf("it has joined cluster %s", d.ClusterID)
	case d.Promised != "" && d.Proposer != d.Name:
		return fmt.Errorf("it has promised to form cluster %s with node %q", d.Promised, d.Proposer)
	}
	return nil
}
