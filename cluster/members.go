package cluster

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cluster/faults"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// pingTime bounds one question to a member.
const pingTime = 2 * time.Second

// peers is what the leader heard from the other members in its term. It is
// empty on all others.
type peers struct {
	mu      sync.Mutex
	term    uint64
	since   time.Time // the leader began to ask
	byID    map[raft.ServerID]*peerState
	changed chan struct{} // closed when a member is heard again or found dead
}

type peerState struct {
	answer   *clusterv1.PingResponse
	answered time.Time // zero: not in this term
	offset   time.Duration
	dead     bool // its process has certainly ended
}

func newPeers() *peers {
	return &peers{byID: map[raft.ServerID]*peerState{}, changed: make(chan struct{})}
}

// begin forgets what was heard, for a term that begins, or 0.
func (p *peers) begin(term uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.term, p.since = term, time.Now()
	p.byID = map[raft.ServerID]*peerState{}
}

func (p *peers) state(id raft.ServerID) *peerState {
	s := p.byID[id]
	if s == nil {
		s = &peerState{}
		p.byID[id] = s
	}
	return s
}

func (p *peers) heard(id raft.ServerID, answer *clusterv1.PingResponse, offset time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.state(id)
	news := s.answer == nil || s.dead || s.answer.GetNode().GetBootId() != answer.GetNode().GetBootId()
	s.answer, s.answered, s.offset, s.dead = answer, time.Now(), offset, false
	if news {
		p.wake()
	}
}

// died notes that a member's process has ended, and reports whether that is
// news.
func (p *peers) died(id raft.ServerID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.state(id)
	if s.dead {
		return false
	}
	s.dead = true
	p.wake()
	return true
}

func (p *peers) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// get answers a copy of what is known of a member.
func (p *peers) get(id raft.ServerID) peerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.byID[id]; s != nil {
		return *s
	}
	return peerState{}
}

// report is this node's answer to a ping.
func (n *Node) report() *clusterv1.PingResponse {
	r := n.raft.Load()
	res := &clusterv1.PingResponse{
		Node: n.identity(), Term: r.CurrentTerm(), LastIndex: r.LastIndex(), LastTerm: n.lastTerm(r), Applied: n.fsm.index(),
		LastContactNanos: -1, NowUnixNano: n.cfg.Now().UnixNano(),
	}
	if t := r.LastContact(); !t.IsZero() {
		res.LastContactNanos = int64(time.Since(t))
	}
	if n.cfg.Gossip != nil {
		res.GossipKey = n.cfg.Gossip.Keys.Primary()
	}
	if n.cfg.Report != nil {
		n.cfg.Report(res)
	}
	return res
}

// watchMembers asks all members how they are, while this node leads.
func (n *Node) watchMembers(ctx context.Context, term uint64) {
	var wg sync.WaitGroup
	defer wg.Wait()
	asked := map[raft.ServerID]context.CancelFunc{}
	t := time.NewTicker(n.cfg.PingInterval)
	defer t.Stop()
	for {
		now := map[raft.ServerID]bool{}
		for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
			if s.ID == n.serverID() {
				continue
			}
			now[s.ID] = true
			if asked[s.ID] == nil {
				ctx, cancel := context.WithCancel(ctx)
				asked[s.ID] = cancel
				wg.Go(func() { n.askMember(ctx, s.ID, term) })
			}
		}
		for id, cancel := range asked {
			if !now[id] {
				cancel()
				delete(asked, id)
			}
		}
		select {
		case <-ctx.Done():
			for _, cancel := range asked {
				cancel()
			}
			return
		case <-t.C:
		}
	}
}

// askMember asks one member again and again.
func (n *Node) askMember(ctx context.Context, id raft.ServerID, term uint64) {
	t := time.NewTicker(n.cfg.PingInterval)
	defer t.Stop()
	for {
		n.pingMember(ctx, id, term)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (n *Node) pingMember(ctx context.Context, id raft.ServerID, term uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	if n.mayCall(id) != nil {
		return false
	}
	conn, err := n.cfg.Network.Conn(id, n.addressOf(id))
	if err != nil {
		return false
	}
	sent := time.Now() // the wall clock may be set while the answer is on its way
	res, err := clusterv1.NewPeerClient(conn).Ping(ctx, &clusterv1.PingRequest{Term: term, Leader: string(n.serverID())})
	if err != nil {
		if status.Code(err) == codes.Unavailable { // its process may have ended
			(*local)(n).Lost(id)
		}
		return false
	}
	answered := n.cfg.Now().Add(-time.Since(sent) / 2)
	n.book.note(res.GetNode())
	n.peers.heard(id, res, time.Unix(0, res.GetNowUnixNano()).Sub(answered))
	return true
}

// alive asks a member once, on the leader.
func (n *Node) alive(ctx context.Context, id raft.ServerID) bool {
	return n.pingMember(ctx, id, n.raft.Load().CurrentTerm())
}

// mayCall tells that a message to a server may leave this node.
func (n *Node) mayCall(id raft.ServerID) error {
	if n.silenced.Load() {
		return errSilenced
	}
	return faults.Message(context.Background(), nameOf(id))
}

// Peer is what the leader knows of a member.
type Peer struct {
	// BootID names the process that answered last; empty if none did in this
	// leader's term.
	BootID string
	// Silent is how long the member has not answered; it counts from the
	// beginning of the leader's term.
	Silent time.Duration
	// Dead: its process has certainly ended: its connections closed, and its
	// host refuses new ones.
	Dead bool
	// RefusesBuilds: it says that it can take no builds.
	RefusesBuilds bool
}

// Peer answers what this node, as the leader, knows of a member, and of itself
// that it is well.
func (n *Node) Peer(name, storeID string) Peer {
	id := raft.ServerID(name + "/" + storeID)
	if id == n.serverID() {
		return Peer{BootID: n.cfg.BootID, RefusesBuilds: n.report().GetRefusesBuilds()}
	}
	n.peers.mu.Lock()
	defer n.peers.mu.Unlock()
	p := Peer{Silent: time.Since(n.peers.since)}
	if s := n.peers.byID[id]; s != nil {
		p.Dead = s.dead
		if s.answer != nil {
			p.BootID, p.Silent = s.answer.GetNode().GetBootId(), time.Since(s.answered)
			p.RefusesBuilds = s.answer.GetRefusesBuilds()
		}
	}
	return p
}

// PeersChanged is closed when a member is heard again or found dead. Take it
// before Peer.
func (n *Node) PeersChanged() <-chan struct{} {
	n.peers.mu.Lock()
	defer n.peers.mu.Unlock()
	return n.peers.changed
}

// Member is one server of the cluster as this node sees it.
type Member struct {
	ServerID, Name, Address, Zone string
	Voter, Leader                 bool
	// Answer is what it told the leader last; nil on nodes that do not lead,
	// and for members that did not answer.
	Answer *clusterv1.PingResponse
	// Silent is how long it has not answered the leader.
	Silent time.Duration
	Dead   bool
	// Skew is how far its clock is ahead of the leader's.
	Skew time.Duration
}

// Members answers Raft's configuration with what is known of each server.
// Only the leader knows more than the configuration.
func (n *Node) Members() []Member {
	r := n.raft.Load()
	if r == nil {
		return nil
	}
	_, leader := r.LeaderWithID()
	var out []Member
	for _, s := range r.GetConfiguration().Configuration().Servers {
		m := Member{
			ServerID: string(s.ID), Name: nameOf(s.ID), Address: n.addressOf(s.ID),
			Voter: s.Suffrage == raft.Voter, Leader: s.ID == leader,
		}
		if s.ID == n.serverID() {
			m.Answer, m.Zone = n.report(), n.cfg.Zone
		} else if n.leading() {
			p := n.peers.get(s.ID)
			m.Answer, m.Dead, m.Skew = p.answer, p.dead, p.offset
			m.Zone = p.answer.GetNode().GetZone()
			m.Silent = n.Peer(m.Name, storeOf(s.ID)).Silent
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.ServerID, b.ServerID) })
	return out
}

func storeOf(id raft.ServerID) string { return string(id)[min(len(id), len(nameOf(id))+1):] }

// Conn answers a connection to the peer API of a member of that store id.
func (n *Node) Conn(name, storeID string) (grpc.ClientConnInterface, error) {
	id := raft.ServerID(name + "/" + storeID)
	if err := n.mayCall(id); err != nil {
		return nil, err
	}
	return n.cfg.Network.Conn(id, n.addressOf(id))
}

// LeaderConn answers a connection to the peer API of the leader, or
// ErrNoLeader, also on the leader itself.
func (n *Node) LeaderConn() (grpc.ClientConnInterface, error) {
	r := n.raft.Load()
	if r == nil {
		return nil, ErrNoLeader
	}
	_, id := r.LeaderWithID()
	if id == "" || id == n.serverID() {
		return nil, ErrNoLeader
	}
	return n.cfg.Network.Conn(id, n.addressOf(id))
}
