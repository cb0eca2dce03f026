package cluster

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
)

// Status describes the cluster as this node sees it.
type Status struct {
	Name, StoreID string
	// Role is Leader, Follower, Candidate or Shutdown.
	Role       string
	LeaderID   string
	LeaderName string
	// ClusterID is empty while the node is in no cluster.
	ClusterID string
	Voter     bool
	Term      uint64
	// Applied is the index of the last applied command.
	Applied uint64
	// Behind is the number of committed entries that are not applied yet.
	Behind uint64
	// LastContact is the time since the last message of a leader; 0 on the leader, -1 if there was
	// none. On a leader whose disk is stuck, while another node can lead, it is the time for which
	// the disk has been stuck.
	LastContact time.Duration
}

// Status returns the cluster as this node sees it.
func (n *Node) Status() Status {
	s := Status{Name: n.cfg.Name, StoreID: n.dir.StoreID(), Role: raft.Shutdown.String(), Applied: n.fsm.Index()}
	r := n.raft.Load()
	if r == nil {
		return s
	}
	_, id := r.LeaderWithID()
	s.Role = r.State().String()
	s.LeaderID = string(id)
	s.LeaderName = serverid.Name(id)
	s.Term = r.CurrentTerm()
	if c, a := r.CommitIndex(), r.AppliedIndex(); c > a {
		s.Behind = c - a
	}
	s.ClusterID = n.dir.Identity().ClusterID
	for _, m := range r.GetConfiguration().Configuration().Servers {
		s.Voter = s.Voter || m.ID == n.serverID() && m.Suffrage == raft.Voter
	}
	s.LastContact = n.lastContact(r)
	return s
}

// Trouble returns the health problem of this node's disk or of its state, or nil.
func (n *Node) Trouble() error {
	if err := n.Diverged(); err != nil {
		return err
	}
	if n.logs == nil {
		return nil
	}
	if err := n.logs.HealthProblem(); err != nil {
		return err
	}
	if d := n.logs.Oldest(); d > n.cfg.SlowDisk {
		return fmt.Errorf("a write of the replicated log has been in progress for %s", d.Round(time.Second))
	}
	return nil
}

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
		if stuck := n.logs.Oldest(); stuck > n.cfg.SlowDisk {
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
