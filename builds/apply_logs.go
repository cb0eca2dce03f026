package builds

import (
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"

	"github.com/image-builder-ha/image-builder/faults"
)

// CopiesOf answers the nodes that hold the log of an attempt, the owner first.
func CopiesOf(a *imagebuilderv1.Attempt) []*imagebuilderv1.LogCopy {
	if c := a.GetLog().GetCopies(); len(c) > 0 {
		return c
	}
	return []*imagebuilderv1.LogCopy{{Node: a.GetOwner(), StoreId: a.GetOwnerStoreId()}}
}

// HasCopy reports whether a node's data directory is one of the copies.
func HasCopy(copies []*imagebuilderv1.LogCopy, node, storeID string) bool {
	for _, c := range copies {
		if c.Node == node && (c.StoreId == storeID || faults.Mutant("copies-without-store-id")) {
			return true
		}
	}
	return false
}

// sealing is the state of the log of an attempt that ended with its owner: a
// node that holds a copy fixes its length.
func (tx *change) sealing(a *imagebuilderv1.Attempt) *imagebuilderv1.AttemptLog {
	return &imagebuilderv1.AttemptLog{State: LogSealing, Copies: CopiesOf(a), Replicas: a.GetLog().GetReplicas(), Sealer: tx.sealer(a)}
}

// sealingElsewhere is sealing by another node than the owner, if one is left.
func (tx *change) sealingElsewhere(a *imagebuilderv1.Attempt) *imagebuilderv1.AttemptLog {
	out := tx.sealing(a)
	for _, c := range CopiesOf(a) {
		if tx.present(c) && (c.Node != a.Owner || c.StoreId != a.OwnerStoreId) {
			out.Sealer = c
			break
		}
	}
	return out
}

// sealer is the former sealer, or else the first copy, whose node is not known
// to be lost.
func (tx *change) sealer(a *imagebuilderv1.Attempt) *imagebuilderv1.LogCopy {
	if s := a.Log.GetSealer(); s != nil && tx.present(s) {
		return s
	}
	for _, c := range CopiesOf(a) {
		if tx.present(c) {
			return c
		}
	}
	return nil
}

func (tx *change) present(c *imagebuilderv1.LogCopy) bool {
	n := tx.Node(c.Node)
	return n != nil && (n.StoreId == c.StoreId || faults.Mutant("copies-without-store-id")) && !n.Lost
}

// giveSealers gives logs that wait for a lost node to another one that holds a
// copy, under a greater epoch, and those that wait for any to one that came.
func (tx *change) giveSealers() {
	var waiting []*buildsv1.Record
	tx.Sealing(func(r *buildsv1.Record) bool { waiting = append(waiting, r); return true })
	for _, r := range waiting {
		var changed *buildsv1.Record
		for i, a := range r.Build.Attempts {
			if a.Log.GetState() != LogSealing || proto.Equal(tx.sealer(a), a.Log.Sealer) {
				continue
			}
			if changed == nil {
				changed = edit(r)
			}
			b := changed.Build.Attempts[i]
			b.Log.Sealer = tx.sealer(a)
			b.Epoch = MaxEpoch(changed.Build) + 1
		}
		if changed != nil {
			tx.put(changed)
		}
	}
}

// sealAttempt fixes the log of an attempt whose owner is gone.
func (tx *change) sealAttempt(c *buildsv1.SealAttempt) Result {
	r, a, err := tx.attemptLog(c.BuildId, c.Attempt, c.Epoch)
	if err != nil {
		return Result{Err: err}
	}
	if a.Log.GetState() != LogSealing {
		return Result{Err: ErrFenced}
	}
	copies := c.Copies
	if len(copies) == 0 {
		copies = CopiesOf(a)
	}
	a.Log = &imagebuilderv1.AttemptLog{State: LogSealed, Length: c.Length, Checksum: c.Checksum, Copies: copies, Replicas: a.Log.Replicas}
	if c.Lost {
		a.Log = &imagebuilderv1.AttemptLog{State: LogLost}
	}
	tx.put(r)
	return Result{Build: r.Build}
}

// setLogCopies replaces the set of copies of an open or complete log.
func (tx *change) setLogCopies(c *buildsv1.SetLogCopies) Result {
	r, a, err := tx.attemptLog(c.BuildId, c.Attempt, c.Epoch)
	if err != nil {
		return Result{Err: err}
	}
	if s := a.Log.GetState(); s != LogOpen && s != LogSealed {
		return Result{Err: ErrFenced}
	}
	if sameCopies(CopiesOf(a), c.Copies) {
		return Result{Build: r.Build}
	}
	if !sameCopies(CopiesOf(a), c.Former) || len(c.Copies) == 0 {
		return Result{Err: ErrFenced}
	}
	a.Log.Copies = c.Copies
	tx.put(r)
	return Result{Build: r.Build}
}

// attemptLog answers copies of a record and of one of its attempts, whose
// epoch is still the given one.
func (tx *change) attemptLog(build string, attempt uint32, epoch uint64) (*buildsv1.Record, *imagebuilderv1.Attempt, error) {
	r := tx.Build(build)
	if r == nil || attempt == 0 || int(attempt) > len(r.Build.Attempts) {
		return nil, nil, ErrNotFound
	}
	r = edit(r)
	a := r.Build.Attempts[attempt-1]
	if a.Epoch != epoch {
		return nil, nil, ErrFenced
	}
	return r, a, nil
}

func sameCopies(a, b []*imagebuilderv1.LogCopy) bool {
	if len(a) != len(b) {
		return false
	}
	for _, c := range a {
		if !HasCopy(b, c.Node, c.StoreId) {
			return false
		}
	}
	return true
}
