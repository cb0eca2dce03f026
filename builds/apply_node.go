package builds

import (
	"fmt"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// nodeStarted ends the attempts of a node's former processes. Their logs wait
// for the node, under a new epoch, to fix their length.
func (tx *change) nodeStarted(c *buildsv1.NodeStarted) Result {
	if n := tx.Node(c.Name); n != nil && n.BootId == c.BootId && n.StoreId == c.StoreId {
		return Result{}
	}
	drained := tx.Node(c.Name).GetDrained()
	tx.nodes.Set(c.Name, &buildsv1.Node{
		Name: c.Name, StoreId: c.StoreId, BootId: c.BootId, Zone: c.Zone,
		Capacity: c.Capacity, Runtimes: c.Runtimes, Drained: drained,
	})
	tx.event.Cluster = true
	var lost []*buildsv1.Record
	tx.Live(func(r *buildsv1.Record) bool {
		if LastAttempt(r.Build).GetOwner() == c.Name {
			lost = append(lost, r)
		}
		return true
	})
	for _, r := range lost {
		r = edit(r)
		a := LastAttempt(r.Build)
		a.Epoch = MaxEpoch(r.Build) + 1
		a.Log = &imagebuilderv1.AttemptLog{State: LogSealing}
		tx.endAttempt(r, a, ending{
			phase: Failed, blame: BlameInfrastructure, uncounted: true,
			message: fmt.Sprintf("node %s stopped while the attempt ran", c.Name),
		})
	}
	return Result{}
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
