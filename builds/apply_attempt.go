package builds

import (
	"fmt"

	"github.com/image-builder-ha/image-builder/faults"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// assignAttempt starts attempts. It refuses assignments that the leader decided on an older version
// of the build or of the node.
func (tx *change) assignAttempt(c *buildsv1.AssignAttempt) Result {
	var res Result
	for _, a := range c.Assignments {
		r := tx.Build(a.BuildId)
		n := tx.Node(a.Owner)
		if r == nil || r.Build.Phase != Queued || r.Successor || r.Build.Version != a.BuildVersion ||
			int(a.Attempt) != len(r.Build.Attempts)+1 || a.Epoch <= MaxEpoch(r.Build) ||
			n == nil || n.StoreId != a.OwnerStoreId || n.Lost || n.Stopping || n.Drained {
			res.Refused++
			continue
		}
		r = edit(r)
		b := r.Build
		b.Phase = Assigned
		b.NotBefore = nil
		if b.StartedAt == nil {
			b.StartedAt = tx.now()
		}
		b.Attempts = append(b.Attempts, &imagebuilderv1.Attempt{
			Number:       a.Attempt,
			Owner:        a.Owner,
			OwnerStoreId: a.OwnerStoreId,
			Epoch:        a.Epoch,
			Phase:        Assigned,
			Runtime:      a.Runtime,
			StartedAt:    tx.now(),
			History:      []*imagebuilderv1.PhaseChange{{Phase: Assigned, At: tx.now()}},
			Log:          &imagebuilderv1.AttemptLog{State: LogOpen, Copies: a.Copies, Replicas: a.Replicas},
			Adoptable:    a.Adoptable,
		})
		tx.put(r)
	}
	return res
}

// liveAttempt returns an editable copy of the record of a build, and the live attempt in it. It
// returns ErrFenced if attempt and epoch are not those of the live attempt: the caller no longer
// owns it.
func (tx *change) liveAttempt(id string, attempt uint32, epoch uint64) (*buildsv1.Record, *imagebuilderv1.Attempt, error) {
	r := tx.Build(id)
	if r == nil {
		return nil, nil, ErrNotFound
	}
	a := LastAttempt(r.Build)
	if a == nil || a.Number != attempt && !faults.Mutant("no-epoch-check") || a.Epoch != epoch && !faults.Mutant("no-epoch-check") || !Live(a.Phase) {
		return nil, nil, ErrFenced
	}
	r = edit(r)
	return r, LastAttempt(r.Build), nil
}

// reportPhase moves a live attempt to a later phase. The phase Pushing commits the digest.
func (tx *change) reportPhase(c *buildsv1.ReportPhase) Result {
	r, a, err := tx.liveAttempt(c.BuildId, c.Attempt, c.Epoch)
	if err != nil {
		return Result{Err: err}
	}
	phase := c.Phase
	if c.WorkloadCreated && tx.level >= workloadLevel {
		// The owner may have reported a later phase before the creation was committed.
		a.WorkloadCreated, phase = true, max(c.Phase, a.Phase)
	}
	if !Live(phase) || phase < a.Phase {
		return Result{Err: fmt.Errorf("attempt %d cannot go from %s back to %s", a.Number, a.Phase, c.Phase)}
	}
	if c.Phase == Pushing {
		if r.StopReason != buildsv1.StopReason_STOP_REASON_UNSPECIFIED {
			return Result{Err: ErrStopping}
		}
		if b := r.Build; b.Digest != "" && b.Digest != c.Digest && !c.FormerDigestMissing {
			return Result{Err: ErrDigestCommitted, Build: b}
		}
		r.Build.Digest, a.Digest = c.Digest, c.Digest
	}
	if phase != a.Phase {
		tx.enter(a, phase)
	}
	if c.Steps != nil {
		a.Steps = c.Steps
	}
	r.Build.Phase = a.Phase
	tx.put(r)
	return Result{Build: r.Build}
}

// finishAttempt ends a live attempt and records the final length and checksum of its log. If the
// owner cannot open the log, a node with another copy seals it.
func (tx *change) finishAttempt(c *buildsv1.FinishAttempt) Result {
	r, a, err := tx.liveAttempt(c.BuildId, c.Attempt, c.Epoch)
	if err != nil {
		return Result{Err: err}
	}
	if !Terminal(c.Phase) {
		return Result{Err: fmt.Errorf("attempt %d cannot end in phase %s", a.Number, c.Phase)}
	}
	if c.Phase == Succeeded && (a.Phase != Pushing || c.Digest == "" || a.Digest != c.Digest) {
		return Result{Err: fmt.Errorf("attempt %d cannot succeed with digest %q: it committed %q in phase %s", a.Number, c.Digest, a.Digest, a.Phase)}
	}
	if c.LogUnknown && tx.level >= workloadLevel {
		a.Log = tx.sealingElsewhere(a)
		a.Epoch = MaxEpoch(r.Build) + 1
	} else {
		a.Log = &imagebuilderv1.AttemptLog{State: LogSealed, Length: c.LogLength, Checksum: c.LogChecksum, Copies: a.Log.GetCopies(), Replicas: a.Log.GetReplicas()}
	}
	if c.Steps != nil {
		a.Steps = c.Steps
	}
	blame := c.Blame
	if c.Phase == Cancelled {
		blame = BlameCancelled
	}
	tx.endAttempt(r, a, ending{phase: c.Phase, blame: blame, message: c.Message, uncounted: c.Uncounted, size: c.SizeBytes})
	return Result{Build: r.Build}
}

// reassign gives live attempts to new owners. It refuses assignments that the leader decided on an
// older version of the build or of the node.
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
