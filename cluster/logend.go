package cluster

import (
	"strconv"

	"github.com/hashicorp/raft"
)

// logEnd is the part of Raft that knows the end of the log.
type logEnd interface {
	LastIndex() uint64
	Stats() map[string]string
}

// lastEntry returns the index and the term of the last entry of this node. The term is read first.
// If it is the term of the leader, the log of this node is a part of the leader's log from then on,
// so the index that is read afterwards is that of an entry of the leader. In the other order, the
// index could be that of an entry of a former term that the leader has removed before the term is
// read.
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

// lastTerm returns the term of the last entry of the log.
func (n *Node) lastTerm(r logEnd) uint64 {
	var e raft.Log
	if n.log.GetLog(r.LastIndex(), &e) == nil {
		return e.Term
	}
	term, _ := strconv.ParseUint(r.Stats()["last_log_term"], 10, 64) // the log is empty after a snapshot; Stats is expensive
	return term
}
