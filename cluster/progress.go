package cluster

import (
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/faults"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

const (
	// silentTimeout is how long the leader may have no response of a node until it calls the node
	// silent.
	silentTimeout = 3 * time.Second
	// unpingedTimeout is how long a node that hears a leader may be without a ping of it. It is
	// longer than a ping takes at most.
	unpingedTimeout = 5 * time.Second
)

// Stall describes an operation that a node does not finish. The zero value means that the node
// makes progress.
type Stall struct {
	// What is the subject of a sentence such as "a write of the replicated log".
	What string
	// For is the time since the start of the oldest operation in progress.
	For time.Duration
}

// String returns a sentence about the stall, "" for the zero value.
func (s Stall) String() string {
	if s.For == 0 {
		return ""
	}
	return fmt.Sprintf("%s has been in progress for %s", s.What, s.For.Round(time.Second))
}

// stallOf returns the operation that has taken longest according to the report of a node. Nodes up
// to version 0.3.0 report nothing.
func stallOf(p *clusterv1.Progress) (s Stall) {
	for _, x := range []Stall{
		{"a write of the replicated log", time.Duration(p.GetRaftWriteNanos())},
		{"a write of a log of a build", time.Duration(p.GetLogWriteNanos())},
		{"the application of a command", time.Duration(p.GetApplyNanos())},
	} {
		if x.For > s.For {
			s = x
		}
	}
	return s
}

// progress returns the progress of this node.
func (n *Node) progress() *clusterv1.Progress {
	p := &clusterv1.Progress{ApplyNanos: int64(n.fsm.Applying())}
	if n.logs != nil {
		p.RaftWriteNanos = int64(n.logs.Oldest())
	}
	if n.cfg.LogWrite != nil {
		p.LogWriteNanos = int64(n.cfg.LogWrite())
	}
	return p
}

// Stalled returns the operation that this node does not finish.
func (n *Node) Stalled() Stall {
	if faults.Mutant("a-hanging-disk-is-no-loss") {
		return Stall{}
	}
	return stallOf(n.progress())
}

// Silenced returns an error if the leader calls this node silent although this node hears the
// leader: the responses of this node to its pings do not arrive, or no pings arrive here.
func (n *Node) Silenced() error {
	r := n.raft.Load()
	if r == nil || n.leading() {
		return nil
	}
	n.pinged.mu.Lock()
	defer n.pinged.mu.Unlock()
	if n.pinged.at.IsZero() {
		return nil
	}
	unpinged := time.Since(n.pinged.at)
	contact := n.lastContact(r)
	switch heard := contact >= 0 && contact < silentTimeout; {
	case heard && unpinged > unpingedTimeout:
		return fmt.Errorf("the leader has not pinged this node for %s: it may call this node silent", unpinged.Round(time.Second))
	case unpinged <= unpingedTimeout && n.pinged.silent > silentTimeout:
		return fmt.Errorf("the leader calls this node silent: it has had no response of it for %s", n.pinged.silent.Round(time.Second))
	}
	return nil
}
