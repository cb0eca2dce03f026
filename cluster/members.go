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
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/faults"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// heardTimeout is how long a node counts the leader as alive after it has heard from it.
const heardTimeout = 3 * time.Second

// pingTimeout bounds one ping of a member.
const pingTimeout = 2 * time.Second

// peers holds the ping responses of the other members in the current term of this node as the
// leader. It is empty on a node that does not lead.
type peers struct {
	mu      sync.Mutex
	term    uint64
	since   time.Time // start of the term
	byID    map[raft.ServerID]*peerState
	changed chan struct{} // closed and replaced when a member responds again or dies
}

type peerState struct {
	ping   *clusterv1.PingResponse
	pingAt time.Time     // time of the ping; zero if there was none in this term
	offset time.Duration // how far its clock was ahead of this node's
	clock  int64         // its clock at pingAt, in nanoseconds since the Unix epoch
	dead   bool          // its process has certainly ended
}

func newPeers() *peers {
	return &peers{byID: map[raft.ServerID]*peerState{}, changed: make(chan struct{})}
}

// begin removes all responses. term is the term that begins, or 0 if this node leads no longer.
func (p *peers) begin(term uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.term, p.since = term, time.Now()
	p.byID = map[raft.ServerID]*peerState{}
}

// begun returns the term of begin.
func (p *peers) begun() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.term
}

func (p *peers) state(id raft.ServerID) *peerState {
	s := p.byID[id]
	if s == nil {
		s = &peerState{}
		p.byID[id] = s
	}
	return s
}

// heard records the response of a member to a ping of a term. It has no effect after the term.
func (p *peers) heard(term uint64, id raft.ServerID, ping *clusterv1.PingResponse, offset time.Duration, clock int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.term != term {
		return
	}
	s := p.state(id)
	changed := s.ping == nil || s.dead || s.ping.GetNode().GetBootId() != ping.GetNode().GetBootId()
	s.ping, s.pingAt, s.offset, s.clock, s.dead = ping, time.Now(), offset, clock, false
	if changed {
		p.wake()
	}
}

// died records that a member's process has ended, and reports whether that is new. It has no effect
// unless the term in which the process was checked goes on.
func (p *peers) died(term uint64, id raft.ServerID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.term != term || term == 0 {
		return false
	}
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

// get returns a copy of the state of a member; the zero value if there is none.
func (p *peers) get(id raft.ServerID) peerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.byID[id]; s != nil {
		return *s
	}
	return peerState{}
}

// report returns this node's response to a ping.
func (n *Node) report() *clusterv1.PingResponse {
	r := n.raft.Load()
	lastIndex, lastTerm := n.lastEntry(r)
	res := &clusterv1.PingResponse{
		Node: n.identity(), Term: r.CurrentTerm(), LastIndex: lastIndex, LastTerm: lastTerm, Applied: n.fsm.index(),
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
	if n.logs != nil {
		res.LogWritable = proto.Bool(n.diskProblem() == nil)
	}
	res.Progress = n.progress()
	res.Floors = n.knownFloors()
	res.Checkpoints = n.checkpoints()
	return res
}

// watchMembers pings all members of Raft's configuration, each by its own goroutine, until ctx
// ends. It returns after all of them have ended.
func (n *Node) watchMembers(ctx context.Context, term uint64) {
	var wg sync.WaitGroup
	defer wg.Wait()
	cancels := map[raft.ServerID]context.CancelFunc{}
	t := time.NewTicker(n.cfg.PingInterval)
	defer t.Stop()
	for {
		now := map[raft.ServerID]bool{}
		for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
			if s.ID == n.serverID() {
				continue
			}
			now[s.ID] = true
			if cancels[s.ID] == nil {
				ctx, cancel := context.WithCancel(ctx)
				cancels[s.ID] = cancel
				wg.Go(func() { n.pingLoop(ctx, s.ID, term) })
			}
		}
		for id, cancel := range cancels {
			if !now[id] {
				cancel()
				delete(cancels, id)
			}
		}
		select {
		case <-ctx.Done():
			for _, cancel := range cancels {
				cancel()
			}
			return
		case <-t.C:
		}
	}
}

// pingLoop pings one member until ctx ends.
func (n *Node) pingLoop(ctx context.Context, id raft.ServerID, term uint64) {
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
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if n.mayCall(id) != nil {
		return false
	}
	conn, err := n.cfg.Network.Conn(id, n.addressOf(id))
	if err != nil {
		return false
	}
	committed, floor := n.committedIn(term), n.floors.get(id)
	sent := time.Now() // monotonic: the wall clock may jump during the call
	res, err := clusterv1.NewPeerClient(conn).Ping(ctx, &clusterv1.PingRequest{Term: term, Leader: string(n.serverID()), Floors: n.knownFloors(), Divergence: n.divergenceOf(id), SilentNanos: int64(n.silentFor(id))})
	if err != nil {
		if status.Code(err) == codes.Unavailable { // the process may have ended
			(*local)(n).Lost(id)
		}
		return false
	}
	now := n.cfg.Now()
	responseAt := now.Add(-time.Since(sent) / 2)
	offset := time.Unix(0, res.GetNowUnixNano()).Sub(responseAt)
	n.book.note(res.GetNode())
	if err := n.checkFloor(res.GetNode(), floor); err != nil {
		res.Trouble = err.Error()
	} else {
		n.raiseFloors(id, res, term, committed)
	}
	n.peers.heard(term, id, res, offset, now.UnixNano()+int64(offset))
	return true
}

// alive pings a member once and reports whether it responds. It is called on the leader.
func (n *Node) alive(ctx context.Context, id raft.ServerID) bool {
	return n.pingMember(ctx, id, n.raft.Load().CurrentTerm())
}

// mayCall returns an error if no message to a server may leave this node.
func (n *Node) mayCall(id raft.ServerID) error {
	if n.silent() {
		return errSilenced
	}
	return faults.Message(context.Background(), nameOf(id))
}

// Peer describes a member as the leader sees it.
type Peer struct {
	// BootID identifies the process that responded last; empty if none did in this leader's term.
	BootID string
	// Silent is the time since the last response, or since the start of the leader's term.
	Silent time.Duration
	// Dead means that the member's process has certainly ended: its connections have closed, and
	// its host refuses new ones.
	Dead bool
	// Stall is what the member does not finish by its last response. Members up to version 0.3.0
	// report nothing, so that it is the zero value.
	Stall Stall
	// RefusesBuilds means that the member reports that it cannot take builds.
	RefusesBuilds bool
}

// Peer returns what this node, as the leader, knows about a member. For this node itself the result
// is never silent or dead.
func (n *Node) Peer(name, storeID string) Peer {
	id := raft.ServerID(name + "/" + storeID)
	if id == n.serverID() {
		return Peer{BootID: n.cfg.BootID, Stall: n.Stalled(), RefusesBuilds: n.report().GetRefusesBuilds()}
	}
	n.peers.mu.Lock()
	defer n.peers.mu.Unlock()
	p := Peer{Silent: time.Since(n.peers.since)}
	if s := n.peers.byID[id]; s != nil {
		p.Dead = s.dead
		if s.ping != nil {
			p.BootID, p.Silent = s.ping.GetNode().GetBootId(), time.Since(s.pingAt)
			p.RefusesBuilds = s.ping.GetRefusesBuilds()
			if p.Stall = stallOf(s.ping.GetProgress()); faults.Mutant("a-hanging-disk-is-no-loss") {
				p.Stall = Stall{}
			}
		}
	}
	return p
}

// silentFor returns Peer.Silent of a member.
func (n *Node) silentFor(id raft.ServerID) time.Duration {
	return n.Peer(nameOf(id), storeOf(id)).Silent
}

// PeersChanged returns a channel that is closed when a member responds again or is found dead. To
// miss no change, call it before Peer.
func (n *Node) PeersChanged() <-chan struct{} {
	n.peers.mu.Lock()
	defer n.peers.mu.Unlock()
	return n.peers.changed
}

// Member is one server of the cluster as this node sees it.
type Member struct {
	ServerID, Name, Address, Zone string
	Voter, Leader                 bool
	// Answer is the last response to a ping of this leader; nil on nodes that do not lead, and for
	// members that did not respond.
	Answer *clusterv1.PingResponse
	// Silent is the time since the last response, as in Peer.
	Silent time.Duration
	Dead   bool
	// Heard means that this node, which does not lead, has itself heard from the member within
	// heardTimeout as its leader, or that gossip shows the member.
	Heard bool
	// Skew is how far the member's clock is ahead of the leader's.
	Skew time.Duration
}

// Members returns the servers of Raft's configuration, sorted by server id. Only on the leader the
// result includes the members' responses.
func (n *Node) Members() []Member {
	r := n.raft.Load()
	if r == nil {
		return nil
	}
	_, leader := r.LeaderWithID()
	shown := n.gossip.Load().members()
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
			m.Answer, m.Dead, m.Skew = p.ping, p.dead, p.offset
			m.Zone = p.ping.GetNode().GetZone()
			m.Silent = n.Peer(m.Name, storeOf(s.ID)).Silent
		} else {
			m.Heard = shown[string(s.ID)] || m.Leader && time.Since(r.LastContact()) < heardTimeout
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.ServerID, b.ServerID) })
	return out
}

// IsMember reports whether the server with that name and store id is in the latest configuration.
func (n *Node) IsMember(name, storeID string) bool {
	r, id := n.raft.Load(), raft.ServerID(name+"/"+storeID)
	return r != nil && slices.ContainsFunc(r.GetConfiguration().Configuration().Servers, func(s raft.Server) bool { return s.ID == id })
}

func storeOf(id raft.ServerID) string { return string(id)[min(len(id), len(nameOf(id))+1):] }

// Conn returns a connection to the peer API of the member with that name and store id. It does not
// wait for the connection.
func (n *Node) Conn(name, storeID string) (grpc.ClientConnInterface, error) {
	id := raft.ServerID(name + "/" + storeID)
	if err := n.mayCall(id); err != nil {
		return nil, err
	}
	return n.cfg.Network.Conn(id, n.addressOf(id))
}

// LeaderConn returns a connection to the peer API of the leader. It returns ErrNoLeader if no
// leader is known or if this node leads.
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
