package cluster

import (
	"time"

	"github.com/hashicorp/raft"
)

// lastContact returns Status.LastContact.
//
// While a write of the log is stuck, Raft does not check whether the others still follow, and
// considers this node the leader for as long as the write takes. The others elect a leader
// meanwhile, which considers this node lost.
func (n *Node) lastContact(r *raft.Raft) time.Duration {
	if r.State() == raft.Leader {
		if n.logs == nil || !hasOtherVoter(r.GetConfiguration().Configuration(), n.serverID()) {
			return 0
		}
		if stuck := n.logs.Stuck(); stuck > n.cfg.SlowDisk {
			return stuck
		}
		return 0
	}
	if t := r.LastContact(); !t.IsZero() {
		return time.Since(t)
	}
	return -1
}

func hasOtherVoter(c raft.Configuration, id raft.ServerID) bool {
	for _, s := range c.Servers {
		if s.ID != id && s.Suffrage == raft.Voter {
			return true
		}
	}
	return false
}
