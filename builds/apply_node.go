package builds

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
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
	}
	return Result{}
}

// nodeLost ends the attempts of a process that is dead or was silent for
// longer than its lease. It counts for the process that was meant only.
func (tx *change) nodeLost(c *buildsv1.NodeLost) Result {
	n := tx.Node(c.Name)
	if n == nil || n.Lost || n.StoreId != c.StoreId || n.BootId != c.BootId {
		return Result{}
	}
	n = proto.CloneOf(n)
	n.Lost = true
	tx.putNode(n)
	tx.endAttemptsOf(c.Name, fmt.Sprintf("node %s was lost while the attempt ran: %s", c.Name, c.Reason))
	return Result{}
}

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

// endAttemptsOf ends all live attempts of a node. Their logs wait for a seal,
// under an epoch that keeps the former owner from writing on.
func (tx *change) endAttemptsOf(node, message string) {
	var lost []*buildsv1.Record
	tx.Live(func(r *buildsv1.Record) bool {
		if LastAttempt(r.Build).GetOwner() == node {
			lost = append(lost, r)
		}
		return true
	})
	for _, r := range lost {
		r = edit(r)
		a := LastAttempt(r.Build)
		a.Epoch = MaxEpoch(r.Build) + 1
		a.Log = &imagebuilderv1.AttemptLog{State: LogSealing}
		tx.endAttempt(r, a, ending{phase: Failed, blame: BlameInfrastructure, uncounted: true, message: message})
	}
}

// sealAttempt fixes the log of an attempt whose owner is gone.
func (tx *change) sealAttempt(c *buildsv1.SealAttempt) Result {
	r := tx.Build(c.BuildId)
	if r == nil {
		return Result{Err: ErrNotFound}
	}
	r = edit(r)
	for _, a := range r.Build.Attempts {
		if a.Number != c.Attempt {
			continue
		}
		if a.Epoch != c.Epoch || a.Log.GetState() != LogSealing {
			return Result{Err: ErrFenced}
		}
		a.Log = &imagebuilderv1.AttemptLog{State: LogSealed, Length: c.Length, Checksum: c.Checksum}
		if c.Lost {
			a.Log = &imagebuilderv1.AttemptLog{State: LogLost}
		}
		tx.put(r)
		return Result{Build: r.Build}
	}
	return Result{Err: ErrNotFound}
}
