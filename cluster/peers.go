package cluster

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// peers holds the ping responses of the other members in the current term of this node as the
// leader. It is empty on a node that does not lead.
type peers struct {
	interval time.Duration // between two pings

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

func newPeers(pingInterval time.Duration) *peers {
	return &peers{interval: pingInterval, byID: map[raft.ServerID]*peerState{}, changed: make(chan struct{})}
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
// if the term in which the process was checked has ended.
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

// silent returns the time since the last response of a member, or since the start of the term.
func (p *peers) silent(s peerState) time.Duration {
	if s.ping != nil {
		return time.Since(s.pingAt)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.since)
}

// recent reports whether a member has responded to one of the last four pings.
func (p *peers) recent(s peerState) bool {
	return s.ping != nil && time.Since(s.pingAt) < 4*p.interval
}

// alive returns the state of a member, and whether it has responded to one of the last four pings
// and has not ended since.
func (p *peers) alive(id raft.ServerID) (peerState, bool) {
	s := p.get(id)
	return s, !s.dead && p.recent(s)
}

// responses returns the states of the members that have responded to one of the last four pings.
func (p *peers) responses() (out []peerState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.byID {
		if p.recent(*s) {
			out = append(out, *s)
		}
	}
	return out
}

// next returns a channel that is closed when a member responds again or is found dead.
func (p *peers) next() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}
