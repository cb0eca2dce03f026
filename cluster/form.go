package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// How often a node looks after its membership: while it is no member, and
// once it is.
const (
	joinInterval   = 200 * time.Millisecond
	memberInterval = 2 * time.Second
	helloTime      = 2 * time.Second
	joinTime       = 10 * time.Second
)

// memberLoop makes the node a member of its cluster and keeps it one: it joins
// first, and only forms a cluster where there is none.
func (n *Node) memberLoop(ctx context.Context) {
	said := time.Time{}
	for {
		waits := n.lookAfterMembership(ctx)
		d := memberInterval
		if waits != "" {
			d = joinInterval
			if now := time.Now(); now.Sub(said) > 5*time.Second {
				n.cfg.Logger.Info("waits for its cluster", "node", n.cfg.Name, "reason", waits)
				said = now
			}
		}
		t := time.NewTimer(d/2 + mathrand.N(d))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-n.kick:
			t.Stop()
		}
	}
}

// Leave keeps the node from joining its cluster again when it is removed, or ends
// that. What it has asked for before is answered when Leave returns.
func (n *Node) Leave(leaves bool) {
	n.joining.Lock()
	defer n.joining.Unlock()
	n.leaving = leaves
}

// lookAfterMembership does what is next, and answers what the node waits for,
// or "".
func (n *Node) lookAfterMembership(ctx context.Context) string {
	n.joining.Lock()
	defer n.joining.Unlock()
	if n.leaving {
		return ""
	}
	id := n.dir.current()
	if len(id.Bootstrap) > 0 {
		if err := n.bootstrap(id.ClusterID, id.Bootstrap); err != nil {
			return err.Error()
		}
	}
	if id.ClusterID != "" && n.settled() {
		return ""
	}
	answers, silent := n.helloAll(ctx)
	if len(answers) == 0 && n.cfg.Expect != 1 {
		return "no other node answers" + silent
	}
	for _, a := range answers {
		if a.GetNode().GetClusterId() == "" {
			continue
		}
		if err := n.fits(a.GetNode()); err != nil {
			return err.Error()
		}
	}
	if why, found := n.joinAny(ctx, answers); found {
		return why
	}
	if id.ClusterID != "" {
		return "no leader is known to any node that answers"
	}
	return n.form(ctx, answers, silent)
}

// settled reports whether the leader knows this node at its address.
func (n *Node) settled() bool {
	r := n.raft.Load()
	if _, leader := r.LeaderWithID(); leader == "" {
		return false
	}
	return slices.ContainsFunc(r.GetConfiguration().Configuration().Servers, func(s raft.Server) bool {
		return s.ID == n.serverID() && string(s.Address) == n.cfg.Network.Address()
	})
}

// helloAll asks who is at the addresses that are known. silent says why some of
// them do not answer.
func (n *Node) helloAll(ctx context.Context) (out []*clusterv1.HelloResponse, silent string) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
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

// joinAny asks the first node that knows a leader to take this one in. found
// reports whether there is a cluster at all.
func (n *Node) joinAny(ctx context.Context, answers []*clusterv1.HelloResponse) (waits string, found bool) {
	waits = "the cluster has no leader"
	for _, a := range answers {
		if a.GetNode().GetClusterId() == "" {
			continue
		}
		found = true
		if a.GetLeaderAddress() == "" {
			continue
		}
		if slices.ContainsFunc(a.GetMembers(), func(m *clusterv1.Member) bool {
			return m.ServerId == string(n.serverID()) && m.Address == n.cfg.Network.Address()
		}) && n.dir.current().ClusterID != "" {
			return "", true // the leader will call
		}
		conn, err := n.cfg.Network.Conn("", a.GetNode().GetAddress())
		if err != nil {
			waits = err.Error()
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, joinTime)
		res, err := clusterv1.NewPeerClient(conn).Join(ctx, &clusterv1.JoinRequest{From: n.introduction()})
		cancel()
		if err == nil {
			err = n.adopt(res.GetClusterId())
		}
		if err == nil {
			return "", true
		}
		waits = status.Convert(err).Message()
	}
	return waits, found
}

// form begins a new cluster with exactly the expected nodes, if this is the
// lowest of them and all the others have promised to be of it.
func (n *Node) form(ctx context.Context, answers []*clusterv1.HelloResponse, silent string) string {
	if n.cfg.Expect == 0 {
		return "no node is in a cluster that could be joined"
	}
	servers := []bootstrapServer{{ID: string(n.serverID()), Address: n.cfg.Network.Address()}}
	names := map[string]bool{n.cfg.Name: true}
	for _, a := range answers {
		if int(a.GetExpect()) != n.cfg.Expect {
			return fmt.Sprintf("node %s expects %d nodes, this one %d: configure the same number", a.Node.ServerId, a.GetExpect(), n.cfg.Expect)
		}
		if err := n.fits(a.GetNode()); err != nil {
			return err.Error()
		}
		names[nameOf(raft.ServerID(a.Node.ServerId))] = true
		servers = append(servers, bootstrapServer{ID: a.Node.ServerId, Address: a.Node.Address})
	}
	switch {
	case len(servers) != n.cfg.Expect:
		return fmt.Sprintf("%d nodes answer (this one included), %d are expected%s", len(servers), n.cfg.Expect, silent)
	case len(names) != len(servers):
		return "two nodes have the same name"
	}
	slices.SortFunc(servers, func(a, b bootstrapServer) int { return strings.Compare(a.ID, b.ID) })
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
		if err := n.askPromise(ctx, s, id); err != nil {
			return err.Error()
		}
	}
	if err := n.bootstrap(id, servers); err != nil {
		return err.Error()
	}
	return ""
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func (n *Node) askPromise(ctx context.Context, s bootstrapServer, id string) error {
	conn, err := n.cfg.Network.Conn("", s.Address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, helloTime)
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

// promise binds this node to a proposer's cluster, unless it is bound to
// another's, and answers the cluster that it is bound to.
func (n *Node) promise(proposer, id string) (bound string, err error) {
	err = n.dir.changeIf(func(d *identity) error {
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

// bootstrap writes the first configuration into Raft's log. The identity file
// remembers it until that is done.
func (n *Node) bootstrap(id string, servers []bootstrapServer) error {
	if err := n.dir.changeIf(func(d *identity) error {
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
	return n.dir.changeIf(func(d *identity) error { d.Bootstrap, d.Promised, d.Proposer = nil, "", ""; return nil })
}
