package cluster

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// floors holds, for each server id, the index of a committed entry that the server has
// acknowledged. A server never has less than that: a lower last index shows that its data directory
// was replaced by an older copy. All members hold floors and exchange them with the pings of the
// leader, so that they survive a change of the leader and the restart of some members.
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

// get returns the floor of a server; 0 if none is known.
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
// have to join again.
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

// acknowledged returns the floor that the response of a member to a ping of the leader shows. If
// the last entry of the member is of the leader's term, then its log is a part of the leader's log,
// and the member keeps all committed entries of it.
func acknowledged(ping *clusterv1.PingResponse, term, committed uint64) uint64 {
	if ping.GetLastTerm() != term {
		return 0
	}
	return min(ping.GetLastIndex(), committed)
}
