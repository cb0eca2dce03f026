package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// pingTimeout bounds one ping of a member.
const pingTimeout = 2 * time.Second

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
	res, err := clusterv1.NewPeerClient(conn).Ping(ctx, &clusterv1.PingRequest{Term: term, Leader: string(n.serverID()), Floors: n.knownFloors(), Divergence: n.divergenceOf(id), SilentNanos: int64(n.peers.silent(n.peers.get(id)))})
	if err != nil {
		if status.Code(err) == codes.Unavailable { // the process may have ended
			n.connectionLost(id)
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

// report returns this node's response to a ping.
func (n *Node) report() *clusterv1.PingResponse {
	r := n.raft.Load()
	lastIndex, lastTerm := n.lastEntry(r)
	res := &clusterv1.PingResponse{
		Node: n.identity(), Term: r.CurrentTerm(), LastIndex: lastIndex, LastTerm: lastTerm, Applied: n.fsm.Index(),
		LastContactNanos: -1, NowUnixNano: n.cfg.Now().UnixNano(),
	}
	_, leader := r.LeaderWithID()
	if leader == n.serverID() && n.silent() {
		leader = "" // it sends nothing, so that another node can lead
	}
	res.Leader = proto.String(string(leader))
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
