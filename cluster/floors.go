package cluster

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// floors holds, for each server id, the index of a committed entry that the server has acknowledged.
// A server never has less than that: a lower last index shows that its data directory was replaced
// by an older copy. All members hold floors and exchange them with the pings of the leader, so that
// they survive a change of the leader and the restart of some members.
type floors struct {
	mu   sync.Mutex
	byID map[raft.ServerID]uint64
}

// raise records a floor. Floors never fall.
func (f *floors) raise(id raft.ServerID, index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byID == nil {
		f.byID = map[raft.ServerID]uint64{}
	}
	f.byID[id] = max(f.byID[id], index)
}

func (f *floors) get(id raft.ServerID) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byID[id]
}

// all returns a copy of the floors.
func (f *floors) all() map[raft.ServerID]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.byID)
}

// merge records the floors of another member.
func (f *floors) merge(list []*clusterv1.Floor) {
	for _, x := range list {
		f.raise(raft.ServerID(x.GetServerId()), x.GetIndex())
	}
}

// of returns the floors of servers, and forgets those of all others, which have left for good or
// have to join anew.
func (f *floors) of(servers []raft.Server) (list []*clusterv1.Floor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, index := range f.byID {
		if slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == id }) {
			list = append(list, &clusterv1.Floor{ServerId: string(id), Index: index})
		} else {
			delete(f.byID, id)
		}
	}
	slices.SortFunc(list, func(a, b *clusterv1.Floor) int { return cmp.Compare(a.GetServerId(), b.GetServerId()) })
	return list
}

// acknowledged returns the floor that the response of a member to a ping of the leader shows. If the
// last entry of the member is of the leader's term, then its log is a part of the leader's log, and
// the member keeps all committed entries of it.
func acknowledged(ping *clusterv1.PingResponse, term, committed uint64) uint64 {
	if ping.GetLastTerm() != term {
		return 0
	}
	return min(ping.GetLastIndex(), committed)
}

// committedIn returns the commit index of this node as the leader of a term; 0 if the term is over.
// What a later leader has committed says nothing about entries of the term.
func (n *Node) committedIn(term uint64) uint64 {
	r := n.raft.Load()
	committed := r.CommitIndex()
	if r.CurrentTerm() != term {
		return 0
	}
	return committed
}

// raiseFloors records what a member and this leader have acknowledged, and the floors that the
// member knows. committed is the commit index of this node before the ping.
func (n *Node) raiseFloors(id raft.ServerID, ping *clusterv1.PingResponse, term, committed uint64) {
	n.floors.merge(ping.GetFloors())
	n.floors.raise(id, acknowledged(ping, term, committed))
	n.floors.raise(n.serverID(), committed) // a leader stores an entry before it sends it
}

func (n *Node) knownFloors() []*clusterv1.Floor {
	return n.floors.of(n.raft.Load().GetConfiguration().Configuration().Servers)
}

// checkFloor returns an error if a node has less than its server id has acknowledged. floor must be
// older than the identity: a server goes on to acknowledge entries while its identity is in flight.
// Below Config.FloorLevel checkFloor returns nil.
func (n *Node) checkFloor(from *clusterv1.Identity, floor uint64) error {
	if n.cfg.CommittedLevel() < n.cfg.FloorLevel || from.LastIndex == nil {
		return nil
	}
	if from.GetLastIndex() < floor {
		return fmt.Errorf("the log of node %s ends at entry %d, but it has acknowledged entry %d: its data directory is an older copy. Stop the node, empty the directory and start the node: it joins as a new member", from.GetServerId(), from.GetLastIndex(), floor)
	}
	return nil
}

// checkFloorOfJoiner is checkFloor for a request, which may have waited: if the identity in it has
// less than the floor, the node is asked for its identity again.
func (n *Node) checkFloorOfJoiner(ctx context.Context, from *clusterv1.Identity) error {
	floor := n.floors.get(raft.ServerID(from.GetServerId()))
	err := n.checkFloor(from, floor)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	res, herr := n.hello(ctx, from.GetAddress())
	if herr != nil || res.GetNode().GetServerId() != from.GetServerId() {
		return err
	}
	return n.checkFloor(res.GetNode(), floor)
}

// logEnd is the part of Raft that knows the end of the log.
type logEnd interface {
	LastIndex() uint64
	Stats() map[string]string
}

// lastEntry returns the index and the term of the last entry of this node. The term is read first:
// then the index is not greater than that of an entry which the node has kept since it had the end
// of that term. In the other order, an entry of a former term, which a leader has removed, could be
// taken for one of the leader's term.
func (n *Node) lastEntry(r logEnd) (index, term uint64) {
	term = n.lastTerm(r)
	return r.LastIndex(), term
}

// lastIndex returns the index of the last entry of this node, in its log or its newest snapshot.
func (n *Node) lastIndex() *uint64 {
	last := n.stored.Load()
	if r := n.raft.Load(); r != nil {
		last = r.LastIndex()
	}
	return &last
}

// noteStored records the last entry that the node has when it starts.
func (n *Node) noteStored(store Storage) error {
	last, err := store.Log.LastIndex()
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	snaps, err := store.Snapshots.List()
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, s := range snaps {
		last = max(last, s.Index)
	}
	n.stored.Store(last)
	return nil
}
