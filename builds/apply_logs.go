package builds

import (
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/faults"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// sealing returns the log state of an attempt whose owner is gone. The sealer, a node with a copy,
// then determines the final length.
func (tx *change) sealing(a *imagebuilderv1.Attempt) *imagebuilderv1.AttemptLog {
	return &imagebuilderv1.AttemptLog{State: LogSealing, Copies: CopiesOf(a), Replicas: a.GetLog().GetReplicas(), Sealer: tx.sealer(a)}
}

// sealingElsewhere is like sealing, but prefers a sealer that is not the owner.
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

// sealer returns the copy that has to seal a log: the current sealer if its node is present, else
// the first copy whose node is present, else nil.
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

// present reports whether the node of a copy exists, has the same data directory, and is not lost.
func (tx *change) present(c *imagebuilderv1.LogCopy) bool {
	n := tx.Node(c.Node)
	return n != nil && (n.StoreId == c.StoreId || faults.Mutant("copies-without-store-id")) && !n.Lost
}

// assignSealers gives a new sealer, under a greater epoch, to each log that has none or whose
// sealer is lost. nodeStarted, nodeLost and forgetNode call it.
func (tx *change) assignSealers() {
	var waiting []*buildsv1.Record
	tx.Sealing(func(r *buildsv1.Record) bool { waiting = append(waiting, r); return true })
	for _, r := range waiting {
		var changed *buildsv1.Record
		for i, a := range r.Build.Attempts {
			if a.Log.GetState() != LogSealing {
				continue
			}
			sealer := tx.sealer(a)
			if sealer == a.Log.Sealer || proto.Equal(sealer, a.Log.Sealer) {
				continue
			}
			if changed == nil {
				changed = edit(r)
			}
			b := changed.Build.Attempts[i]
			b.Log.Sealer = sealer
			b.Epoch = MaxEpoch(changed.Build) + 1
		}
		if changed != nil {
			tx.put(changed)
		}
	}
}

// sealAttempt records the final length and checksum of a log whose owner is gone, or marks the log
// as lost.
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

// setLogCopies replaces the copies of an open or sealed log. It refuses the change if c.Former is
// not the current set.
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

// attemptLog returns an editable copy of the record of a build, and the attempt in it. It returns
// ErrFenced if the attempt has another epoch.
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
