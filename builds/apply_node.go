package builds

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// nodeStarted ends the attempts of a node's former processes. Their logs wait
// for the node, under a new epoch, to fix their length.
func (tx *change) nodeStarted(c *buildsv1.NodeStarted) Result {
	n := tx.Node(c.Name)
	same := n != nil && n.BootId == c.BootId && n.StoreId == c.StoreId
	if same && !n.Lost {
		return Result{}
	}
	tx.putNode(&buildsv1.Node{
		Name: c.Name, StoreId: c.StoreId, BootId: c.BootId, Zone: c.Zone,
		Capacity: c.Capacity, Runtimes: c.Runtimes, Drained: n.GetDrained(), Stopping: same && n.Stopping,
	})
	if !same {
		tx.endAttemptsOf(c.Name, fmt.Sprintf("node %s stopped while the attempt ran", c.Name))
		tx.endRefreshesOf(c.Name)
		tx.adoptOwn(c.Name, c.StoreId)
	}
	tx.giveSealers()
	return Result{}
}

// nodeLost ends the attempts of a process that is dead or was silent for
// longer than its lease. It counts for the process that was meant only.
func (tx *change) nodeLost(c *buildsv1.NodeLost) Result {
	n := tx.Node(c.Name)
	all := c.AllAttempts && tx.level >= lostLevel
	if n == nil || n.Lost && !all || n.StoreId != c.StoreId || n.BootId != c.BootId {
		return Result{}
	}
	n = proto.CloneOf(n)
	n.Lost, n.LostUnixNano = true, tx.time
	tx.putNode(n)
	tx.endAttempts(c.Name, fmt.Sprintf("node %s was lost while the attempt ran: %s", c.Name, c.Reason), all)
	tx.endRefreshesOf(c.Name)
	tx.giveSealers()
	return Result{}
}

// lostLevel is the feature level from which on all attempts of a lost node can
// end: older versions do not know the field.
const lostLevel = 4

// nodeStopping keeps new attempts away from a process that is about to end.
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

func (tx *change) putNode(n *buildsv1.Node) {
	tx.nodes.Set(n.Name, n)
	tx.event.Cluster = true
}

// drainNode keeps new attempts and copies away from a node, or ends that.
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

// forgetNode removes a node that is no member any more. Its attempts have
// ended with it.
func (tx *change) forgetNode(c *buildsv1.ForgetNode) Result {
	n := tx.Node(c.Name)
	if n == nil || n.StoreId != c.StoreId {
		return Result{}
	}
	tx.nodes.Delete(c.Name)
	tx.event.Cluster = true
	tx.endAttemptsOf(c.Name, fmt.Sprintf("node %s was removed while the attempt ran", c.Name))
	tx.endRefreshesOf(c.Name)
	tx.giveSealers()
	return Result{Existed: true}
}

// endAttemptsOf ends all live attempts of a node, those left out whose
// workloads outlive it: the leader gives them to others. Logs wait for a seal,
// under an epoch that keeps the former owner from writing on.
func (tx *change) endAttemptsOf(node, message string) { tx.endAttempts(node, message, false) }

// endAttempts is endAttemptsOf or, with all, leaves none out.
func (tx *change) endAttempts(node, message string, all bool) {
	for _, r := range tx.liveOn(node) {
		r = edit(r)
		a := LastAttempt(r.Build)
		if a.Adoptable && !all {
			continue
		}
		a.Epoch = MaxEpoch(r.Build) + 1
		a.Log = tx.sealing(a)
		tx.endAttempt(r, a, ending{phase: Failed, blame: BlameInfrastructure, uncounted: true, message: message})
	}
}

// liveOn answers the builds whose live attempt a node owns.
func (tx *change) liveOn(node string) (out []*buildsv1.Record) {
	tx.Live(func(r *buildsv1.Record) bool {
		if LastAttempt(r.Build).GetOwner() == node {
			out = append(out, r)
		}
		return true
	})
	return out
}

// adoptOwn lets a node that came back with its data go on with the attempts
// whose workloads have outlived its former process.
func (tx *change) adoptOwn(node, storeID string) {
	for _, r := range tx.liveOn(node) {
		r = edit(r)
		if a := LastAttempt(r.Build); a.Adoptable && a.OwnerStoreId == storeID {
			a.Epoch = MaxEpoch(r.Build) + 1
			tx.put(r)
		}
	}
}

// reassign gives live attempts to new owners. Those that moved on meanwhile
// are left out.
func (tx *change) reassign(c *buildsv1.Reassign) Result {
	var res Result
	for _, as := range c.Assignments {
		r := tx.Build(as.BuildId)
		a := LastAttempt(r.GetBuild())
		n := tx.Node(as.Owner)
		if a == nil || !Live(a.Phase) || !a.Adoptable || a.Number != as.Attempt || r.Build.Version != as.BuildVersion ||
			as.Epoch <= MaxEpoch(r.Build) || n == nil || n.StoreId != as.OwnerStoreId || n.Lost || n.Stopping {
			res.Refused++
			continue
		}
		r = edit(r)
		a = LastAttempt(r.Build)
		a.Owner, a.OwnerStoreId, a.Epoch = as.Owner, as.OwnerStoreId, as.Epoch
		tx.put(r)
	}
	return res
}
