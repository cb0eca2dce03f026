package builds

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// nodeStarted records a new process of a node. It ends the attempts of the former process, except
// adoptable ones, which the new process takes over under a new epoch. A repeated command of the
// same process only clears the mark lost.
func (tx *change) nodeStarted(c *buildsv1.NodeStarted) Result {
	n := tx.Node(c.Name)
	same := n != nil && n.BootId == c.BootId && n.StoreId == c.StoreId
	if same && !n.Lost {
		return Result{}
	}
	former := fmt.Sprintf("node %s stopped while the attempt ran", c.Name)
	if same {
		former = fmt.Sprintf("node %s was lost while the attempt ran", c.Name)
	}
	if tx.endsInBatches(c.Name, former, false) {
		return Result{More: true}
	}
	tx.putNode(&buildsv1.Node{
		Name: c.Name, StoreId: c.StoreId, BootId: c.BootId, Zone: c.Zone,
		Capacity: c.Capacity, Runtimes: c.Runtimes, Drained: n.GetDrained(), Stopping: same && n.Stopping,
	})
	if !same {
		tx.endAttemptsOf(c.Name, former)
		tx.endRefreshesOf(c.Name)
		tx.adoptOwn(c.Name, c.StoreId)
	} else if tx.level >= attemptBatchLevel {
		tx.endAttemptsOf(c.Name, former) // those that NodeLost has left
	}
	tx.assignSealers()
	return Result{}
}

// nodeLost marks a node as lost, because its process has ended or has not renewed its lease. It
// ends the attempts of the node; adoptable ones only if AllAttempts is set. A command about another
// process of the node has no effect.
func (tx *change) nodeLost(c *buildsv1.NodeLost) Result {
	n := tx.Node(c.Name)
	all := c.AllAttempts && tx.level >= allAttemptsLevel
	rest := n != nil && n.Lost && tx.level >= attemptBatchLevel && tx.Bound(n.Name)
	if n == nil || n.Lost && !all && !rest || n.StoreId != c.StoreId || n.BootId != c.BootId {
		return Result{}
	}
	if !rest || all {
		n = proto.CloneOf(n)
		n.Lost, n.LostUnixNano = true, tx.time
		tx.putNode(n)
	}
	message := fmt.Sprintf("node %s was lost while the attempt ran: %s", c.Name, c.Reason)
	more := tx.endsInBatches(c.Name, message, all)
	if !more {
		tx.endAttempts(c.Name, message, all)
	}
	tx.endRefreshesOf(c.Name)
	tx.assignSealers()
	return Result{More: more}
}

// nodeStopping marks the process of a node as stopping. A stopping process gets no new attempts.
func (tx *change) nodeStopping(c *buildsv1.NodeStopping) Result {
	n := tx.Node(c.Name)
	if n == nil || n.Stopping || n.StoreId != c.StoreId || n.BootId != c.BootId {
		return Result{}
	}
	n = proto.CloneOf(n)
	n.Stopping = true
	tx.putNode(n)
	return Result{}
}

// putNode stores the record of a node.
func (tx *change) putNode(n *buildsv1.Node) {
	tx.nodes.Set(n.Name, n)
	tx.event.Cluster = true
}

// drainNode sets whether a node is drained. A drained node gets no new attempts and no new copies.
func (tx *change) drainNode(c *buildsv1.DrainNode) Result {
	n := tx.Node(c.Name)
	if n == nil {
		return Result{Err: fmt.Errorf("node %q: %w", c.Name, ErrNotFound)}
	}
	if n.Drained != c.Drained {
		n = proto.CloneOf(n)
		n.Drained = c.Drained
		tx.putNode(n)
	}
	return Result{Existed: true}
}

// forgetNode removes a node that is no longer a member. It ends the attempts of the node, except
// adoptable ones.
func (tx *change) forgetNode(c *buildsv1.ForgetNode) Result {
	n := tx.Node(c.Name)
	if n == nil || n.StoreId != c.StoreId {
		return Result{}
	}
	message := fmt.Sprintf("node %s was removed while the attempt ran", c.Name)
	if tx.endsInBatches(c.Name, message, false) {
		return Result{Existed: true, More: true}
	}
	tx.nodes.Delete(c.Name)
	tx.event.Cluster = true
	tx.endAttemptsOf(c.Name, message)
	tx.endRefreshesOf(c.Name)
	tx.assignSealers()
	return Result{Existed: true}
}

// maxEndedAttempts limits how many attempts one command ends because their node is gone.
const maxEndedAttempts = 1024

// endsInBatches reports whether more attempts than one command may end depend on a node. It ends the
// first ones of them then, and the caller leaves the rest of its work to the next command.
func (tx *change) endsInBatches(node, message string, all bool) bool {
	if tx.level < attemptBatchLevel {
		return false
	}
	ends := tx.dependOn(node, all, maxEndedAttempts+1)
	if len(ends) <= maxEndedAttempts {
		return false
	}
	tx.endEach(ends[:maxEndedAttempts], message)
	return true
}

// dependOn returns up to limit builds whose live attempt ends with a node: adoptable ones only if all
// is set.
func (tx *change) dependOn(node string, all bool, limit int) (out []*buildsv1.Record) {
	tx.LiveOn(node, func(r *buildsv1.Record) bool {
		if all || !LastAttempt(r.Build).Adoptable {
			out = append(out, r)
		}
		return len(out) < limit
	})
	return out
}

// Bound reports whether a node owns a live attempt that ends with the node.
func (s *State) Bound(node string) (bound bool) {
	s.LiveOn(node, func(r *buildsv1.Record) bool {
		bound = !LastAttempt(r.Build).Adoptable
		return !bound
	})
	return bound
}

// endAttemptsOf ends the live attempts of a node, except adoptable ones: their workloads outlive
// the node, and the leader gives them to other nodes.
func (tx *change) endAttemptsOf(node, message string) { tx.endAttempts(node, message, false) }

// endAttempts ends the live attempts of a node, adoptable ones only if all is set. Their logs enter
// the state sealing under a new epoch, so that the former owner can no longer write to them.
func (tx *change) endAttempts(node, message string, all bool) {
	tx.endEach(tx.dependOn(node, all, math.MaxInt), message)
}

// endEach ends the live attempts of builds whose node is gone.
func (tx *change) endEach(builds []*buildsv1.Record, message string) {
	for _, r := range builds {
		r = edit(r)
		a := LastAttempt(r.Build)
		a.Epoch = MaxEpoch(r.Build) + 1
		a.Log = tx.sealing(a)
		tx.endAttempt(r, a, ending{phase: Failed, blame: BlameInfrastructure, uncounted: true, message: message})
	}
}

// liveOn returns the builds whose live attempt a node owns.
func (tx *change) liveOn(node string) (out []*buildsv1.Record) {
	tx.LiveOn(node, func(r *buildsv1.Record) bool { out = append(out, r); return true })
	return out
}

// adoptOwn gives the adoptable attempts of a node to its new process, under a new epoch, if the
// store id of the node is unchanged.
func (tx *change) adoptOwn(node, storeID string) {
	for _, r := range tx.liveOn(node) {
		if a := LastAttempt(r.Build); !a.Adoptable || a.OwnerStoreId != storeID {
			continue
		}
		r = edit(r)
		LastAttempt(r.Build).Epoch = MaxEpoch(r.Build) + 1
		tx.put(r)
	}
}
