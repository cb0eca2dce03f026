package builds

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"

	"github.com/image-builder-ha/image-builder/faults"
)

// assignAttempt starts attempts. Assignments that were decided on an older
// version of their build, or on another process of the node, are left out.
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

// liveAttempt answers copies of a build's record and its live attempt, if the
// caller is its owner still.
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

func (tx *change) reportPhase(c *buildsv1.ReportPhase) Result {
	r, a, err := tx.liveAttempt(c.BuildId, c.Attempt, c.Epoch)
	if err != nil {
		return Result{Err: err}
	}
	phase := c.Phase
	if c.WorkloadCreated && tx.level >= workloadLevel {
		// It may have been seen to run before that was committed.
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

// workloadLevel is the feature level from which on an attempt keeps that its
// workload was created, and its log is left to others if its owner cannot open
// it: older versions do not know the fields.
const workloadLevel = 4

// KeepsWorkloads reports whether attempts keep that their workload was created.
func (s *State) KeepsWorkloads() bool { return s.level >= workloadLevel }

func (tx *change) enter(a *imagebuilderv1.Attempt, p imagebuilderv1.Phase) {
	a.Phase = p
	a.History = append(a.History, &imagebuilderv1.PhaseChange{Phase: p, At: tx.now()})
}

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

// ending is how an attempt ended.
type ending struct {
	phase     imagebuilderv1.Phase
	blame     imagebuilderv1.Blame
	message   string
	uncounted bool
	size      int64
}

// endAttempt ends the attempt a of the copied record r and decides what
// becomes of the build: it ends, or it is queued for the next attempt.
func (tx *change) endAttempt(r *buildsv1.Record, a *imagebuilderv1.Attempt, e ending) {
	tx.enter(a, e.phase)
	a.EndedAt = tx.now()
	a.Message = e.message
	if e.phase != Succeeded {
		a.Blame = e.blame
	}
	switch {
	case e.phase == Succeeded:
		r.Build.SizeBytes = e.size
		tx.end(r, Succeeded, 0, "")
		return
	case r.StopReason != buildsv1.StopReason_STOP_REASON_UNSPECIFIED:
		tx.endStopped(r)
		return
	case e.phase == Failed && e.blame != BlameInfrastructure:
		a.Counted = true
		tx.end(r, Failed, e.blame, e.message)
		return
	}
	if e.uncounted || e.phase == Cancelled {
		r.UncountedAttempts++
	} else {
		a.Counted = true
		r.CountedAttempts++
	}
	if reason := tx.exhausted(r); reason != "" {
		tx.end(r, Failed, BlameInfrastructure, reason+e.message)
		return
	}
	r.Build.Phase = Queued
	if a.Counted {
		r.Build.NotBefore = timestamppb.New(time.Unix(0, tx.time+tx.backoff(r.CountedAttempts)))
	}
	tx.put(r)
}

// exhausted tells why there is no further attempt, or "".
func (tx *change) exhausted(r *buildsv1.Record) string {
	if n := r.CountedAttempts; n >= max(tx.settings.Attempts, 1) {
		return fmt.Sprintf("gave up after %d attempts; the last one: ", n)
	}
	if n := r.UncountedAttempts; n >= max(tx.settings.UncountedAttempts, 1) {
		return fmt.Sprintf("gave up after %d attempts that ended with their node; the last one: ", n)
	}
	return ""
}

// backoff is the pause before the attempt that follows the nth counted one.
func (tx *change) backoff(n uint32) int64 {
	d := tx.settings.RetryBaseNanos
	for range min(n, 40) - 1 {
		d *= 2
		if d >= tx.settings.RetryMaxNanos {
			return tx.settings.RetryMaxNanos
		}
	}
	return d
}

// end makes the build terminal: its secrets go, its key is free, a successor
// moves up.
func (tx *change) end(r *buildsv1.Record, phase imagebuilderv1.Phase, blame imagebuilderv1.Blame, message string) {
	b := r.Build
	b.Phase = phase
	b.Blame = blame
	b.Message = message
	b.EndedAt = tx.now()
	b.NotBefore = nil
	if phase != Succeeded {
		b.Digest = ""
	}
	r.Secrets = nil
	r.EndedIndex = tx.index
	tx.put(r)
	if id, ok := tx.successors.Get(b.Ref); ok && !r.Successor {
		next := edit(tx.Build(id))
		next.Successor = false
		tx.put(next)
	}
	tx.reap(reapsPerApply)
}
