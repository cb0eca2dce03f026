package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
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

// If the connection to the leader is in doubt, checkReach asks the other members and judges their
// reports.
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

// found has the results of the calls to the other members.
type found struct {
	leader    bool // the leader responds
	majority  bool // see separation
	elsewhere bool // see separation
}

// askMembers pings the other voters and the leader until the leader responds, all have responded, or
// the timeout has passed.
func (n *Node) askMembers(ctx context.Context, leader raft.ServerID, timeout time.Duration) (f found) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	voters, need := n.voters()
	asked := withLeader(voters, leader, n.serverID())
	pings := n.pingAll(ctx, asked)
	for range asked {
		var p memberPing
		select {
		case p = <-pings:
		case <-ctx.Done():
			f.majority = need <= 0
			return f
		}
		if p.there && slices.Contains(voters, p.id) {
			need--
		}
		if p.res == nil {
			continue
		}
		if leads(p, leader, n.raft.Load().CurrentTerm()) {
			f.leader = true
			return f
		}
		f.elsewhere = f.elsewhere || hearsLeader(p.res, n.serverID(), n.scaled(freshLimit))
	}
	f.majority = need <= 0
	return f
}

// withLeader returns the members to ask: the other voters and the leader that this node knows. The
// configuration of this node can be older than the vote of the leader.
func withLeader(voters []raft.ServerID, leader, self raft.ServerID) []raft.ServerID {
	if leader == "" || leader == self || slices.Contains(voters, leader) {
		return voters
	}
	return append(slices.Clip(voters), leader)
}

// leads reports whether a member that responded leads in the given term or a later one. Its first
// message to this node may still be on its way. The leader that this node knows can have stepped
// down, or send nothing. Versions up to 0.3.0 do not report whether they lead.
func leads(p memberPing, leader raft.ServerID, term uint64) bool {
	if p.res.Leader == nil {
		return p.id == leader
	}
	return p.res.GetLeader() == string(p.id) && p.res.GetTerm() >= term
}

// hearsLeader reports whether a member has heard a leader other than this node within fresh. Raft
// also records a contact when a member votes, and then the member has no leader. Versions up to
// 0.3.0 report the contact only.
func hearsLeader(res *clusterv1.PingResponse, self raft.ServerID, fresh time.Duration) bool {
	contact := res.GetLastContactNanos()
	return contact >= 0 && time.Duration(contact) < fresh && (res.Leader == nil || res.GetLeader() != "" && res.GetLeader() != string(self))
}

// memberPing is the result of a ping of a member.
type memberPing struct {
	id    raft.ServerID
	res   *clusterv1.PingResponse // nil if it did not respond
	there bool                    // it responded, it is starting, or its host refused the connection
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
		p.there = isStarting(err) || isRefused(n.cfg.Network.Probe(ctx, n.addressOf(id)))
		if ctx.Err() == nil {
			n.cfg.Logger.Debug("a member does not respond to a ping", "node", n.cfg.Name, "member", serverid.Name(id), "err", status.Convert(err).Message())
		}
		return p
	}
	p.there = true
	return p
}

// scale returns the factor of the timeouts that depend on the heartbeat timeout.
func (n *Node) scale() float64 {
	return max(1, float64(n.cfg.Heartbeat)/float64(defaultHeartbeat))
}

// scaled returns a timeout for the configured heartbeat timeout.
func (n *Node) scaled(d time.Duration) time.Duration {
	return time.Duration(n.scale() * float64(d))
}

// Reached returns a context that ends when this node counts as separated from the cluster, because
// it hears no leader or because its requests do not arrive. Other nodes can then serve clients, or
// none can. Once a leader responds again, Reached returns a new context.
func (n *Node) Reached() context.Context {
	n.reach.mu.Lock()
	defer n.reach.mu.Unlock()
	return n.reach.ctx
}
