package cluster

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
	"github.com/image-builder-ha/image-builder/faults"
)

// The functions in this file are the only ones that write Node.current, Node.leads and Node.term.

// beginTerm records that the work of a term begins. The node does not count as the leader yet. The
// reports of the peers in a former term are void, so beginTerm removes them before anything judges
// the members.
func (n *Node) beginTerm(term *Term) {
	n.peers.begin(term.number)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.current.Store(term)
}

// setLeads makes the node count as the leader, unless the term has ended. The goroutine that
// establishes a term ends after the term, so the call may come too late.
func (n *Node) setLeads(term *Term) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.current.Load() == term {
		n.leads, n.term = true, term.number
		n.wakeWaiters()
	}
}

// endTerm ends the current term: the node does not count as the leader any more, and calls of
// setLeads for this term have no effect.
func (n *Node) endTerm() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.current.Store(nil)
	n.leads, n.term = false, 0
	n.wakeWaiters()
}

// wakeWaiters wakes the callers that wait for a change of leadership. The caller holds mu.
func (n *Node) wakeWaiters() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// leadsIn reports whether the node counts as the leader in that term.
func (n *Node) leadsIn(term *Term) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leads && n.current.Load() == term
}

// silent reports whether this node sends nothing, because its disk is stuck while it leads.
func (n *Node) silent() bool {
	term := n.current.Load()
	return term != nil && term.quiet.Load()
}

// Leads reports whether this node leads and has applied a command of its term.
func (n *Node) Leads() bool { return n.leading() }

// leadership reports whether this node leads. changed is closed when that or the known leader
// changes.
func (n *Node) leadership() (leads bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leads, n.changed
}

func (n *Node) leading() bool {
	leads, _ := n.leadership()
	return leads
}

// mayCall returns an error if no message to a server may leave this node.
func (n *Node) mayCall(id raft.ServerID) error {
	if n.silent() {
		return errSilenced
	}
	return faults.Message(context.Background(), serverid.Name(id))
}

var errSilenced = errors.New("the disk of this node is stuck: this node sends nothing, so that another node can lead")
