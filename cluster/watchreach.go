package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// separatedRounds is the number of intervals between two checks of a separated node.
const separatedRounds = 4

// watchReach keeps Node.reach up to date until ctx ends. In the normal case it sends nothing. It
// sends pings when it hears no leader, or when a request to the leader has no response.
func (n *Node) watchReach(ctx context.Context) {
	t := time.NewTicker(reachInterval)
	defer t.Stop()
	h := heard{at: time.Now()}
	checked := h.at
	for rounds := 0; ; rounds++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		late := now.Sub(checked) > reachInterval+lateLimit
		h.update(now, n.raft.Load(), n.serverID(), n.cfg.Lease)
		if n.reach.separated() && h.led == 0 && rounds%separatedRounds != 0 {
			checked = now
			continue
		}
		n.checkReach(ctx, h, late)
		checked = time.Now()
	}
}

// heard is the last time at which a node heard a leader or led.
type heard struct {
	at    time.Time // start of the watch if it has heard none
	knew  bool      // it has heard one or led
	led   uint64    // term in which it led at the last update, or 0
	ended time.Time // contact that Raft recorded when a leadership of this node ended
}

// update updates the time from the state of Raft.
func (h *heard) update(now time.Time, r *raft.Raft, self raft.ServerID, lease time.Duration) {
	_, leader := r.LeaderWithID()
	term, led, contact := r.CurrentTerm(), h.led, r.LastContact()
	h.led = 0
	switch {
	case leader == self:
		h.at, h.knew, h.led = now, true, term
	case leader == "" && led == term && led != 0:
		// Raft ends the leadership in its own term when no majority has responded for the lease. It
		// then records a contact.
		h.at, h.ended = now.Add(-lease), contact
	}
	h.note(contact)
}

// note records the last contact of Raft.
func (h *heard) note(contact time.Time) {
	if contact.After(h.at) && !contact.Equal(h.ended) {
		h.at, h.knew = contact, true
	}
}

// checkReach asks the other members if there is a doubt, and judges what they report.
func (n *Node) checkReach(ctx context.Context, h heard, late bool) {
	began := time.Now()
	if h.led != 0 {
		n.reportReach(n.reach.responded(began, true), "")
		return
	}
	suspect := n.scaled(suspectTimeout)
	doubt := began.Sub(h.at) >= suspect || n.reach.unanswered(began) >= suspect
	if !doubt && !n.reach.separated() {
		return
	}
	_, leader := n.raft.Load().LeaderWithID()
	found := n.askMembers(ctx, leader, suspect)
	now := time.Now()
	h.note(n.raft.Load().LastContact())
	if ctx.Err() != nil {
		return
	}
	if found.leader {
		n.reportReach(n.reach.responded(now, false), "")
		return
	}
	s := separation{
		heard: now.Sub(h.at), unanswered: n.reach.unanswered(now), knew: h.knew,
		majority: found.majority, elsewhere: found.elsewhere,
		late: late || now.Sub(began) > suspect+lateLimit,
	}
	reason := s.reason(n.scale())
	if n.reach.silent(now, reason != "") {
		n.reportReach(false, reason)
	}
}

// reportReach logs a change.
func (n *Node) reportReach(returned bool, reason string) {
	switch {
	case returned:
		n.cfg.Logger.Info("a leader responds to this node again", "node", n.cfg.Name)
	case reason != "":
		n.cfg.Logger.Warn("this node reaches no leader and refuses calls that need it", "node", n.cfg.Name, "reason", reason)
	}
}

// found is what the other members have responded.
type found struct {
	leader    bool // the leader responds
	majority  bool // see separation
	elsewhere bool // see separation
}

// askMembers pings the other voters, the leader included, until the leader responds, all have
// responded, or the timeout has passed.
func (n *Node) askMembers(ctx context.Context, leader raft.ServerID, timeout time.Duration) (f found) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	others, need := n.voters()
	pings := n.pingAll(ctx, others)
	for range others {
		var p memberPing
		select {
		case p = <-pings:
		case <-ctx.Done():
			f.majority = need <= 0
			return f
		}
		if p.there {
			need--
		}
		if p.res == nil {
			continue
		}
		if p.id == leader {
			f.leader = true
			return f
		}
		contact := p.res.GetLastContactNanos()
		f.elsewhere = f.elsewhere || contact >= 0 && time.Duration(contact) < n.scaled(freshLimit)
	}
	f.majority = need <= 0
	return f
}

// memberPing is the result of a ping of a member.
type memberPing struct {
	id    raft.ServerID
	res   *clusterv1.PingResponse // nil if it did not respond
	there bool                    // it responded, or its host refused the connection
}

// pingAll pings members at the same time. The channel delivers a result for each of them, at the
// latest when ctx ends.
func (n *Node) pingAll(ctx context.Context, ids []raft.ServerID) <-chan memberPing {
	results := make(chan memberPing, len(ids))
	for _, id := range ids {
		go func() { // ends with ctx; Close waits for it
			if !n.raftCalls.begin() {
				results <- memberPing{id: id}
				return
			}
			defer n.raftCalls.end()
			results <- n.pingOne(ctx, id)
		}()
	}
	return results
}

func (n *Node) pingOne(ctx context.Context, id raft.ServerID) memberPing {
	p := memberPing{id: id}
	if n.mayCall(id) != nil {
		return p
	}
	conn, err := n.cfg.Network.Conn(id, n.addressOf(id))
	if err == nil {
		p.res, err = clusterv1.NewPeerClient(conn).Ping(ctx, &clusterv1.PingRequest{})
	}
	if err != nil {
		p.res = nil
		p.there = isRefused(n.cfg.Network.Probe(ctx, n.addressOf(id)))
		if ctx.Err() == nil {
			n.cfg.Logger.Debug("a member does not respond to a ping", "node", n.cfg.Name, "member", nameOf(id), "err", status.Convert(err).Message())
		}
		return p
	}
	p.there = true
	return p
}
