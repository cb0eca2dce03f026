package builds

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// enter sets the phase of an attempt and adds the change to the history of the attempt.
func (tx *change) enter(a *imagebuilderv1.Attempt, p imagebuilderv1.Phase) {
	a.Phase = p
	a.History = append(a.History, &imagebuilderv1.PhaseChange{Phase: p, At: tx.now()})
}

// ending describes how an attempt ended.
type ending struct {
	phase     imagebuilderv1.Phase
	blame     imagebuilderv1.Blame
	message   string
	uncounted bool  // the attempt does not count against the limit of attempts
	size      int64 // of the image, in bytes
}

// endAttempt ends the attempt a of r. Then the build ends as well, or it is queued for the next
// attempt. r is a copy that the caller may change.
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
	if pause, ok := tx.pause(r, a); ok {
		r.Build.NotBefore = timestamppb.New(time.Unix(0, tx.time+pause))
	}
	tx.put(r)
}

// end makes a build terminal and removes its secrets. If a successor waits, it becomes the active
// build of the ref.
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
	if !slices.Contains(tx.over, b.Requester) {
		tx.over = append(tx.over, b.Requester)
	}
	if id, ok := tx.successors.Get(b.Ref); ok && !r.Successor {
		next := edit(tx.Build(id))
		next.Successor = false
		if tx.level >= successorDeadlineLevel {
			waited := time.Duration(tx.time - next.Build.CreatedAt.AsTime().UnixNano())
			next.Build.Deadline = timestamppb.New(next.Build.Deadline.AsTime().Add(waited))
		}
		tx.put(next)
	}
	tx.reap(reapsPerApply)
}

// endStopped ends a build whose stop was requested.
func (tx *change) endStopped(r *buildsv1.Record) {
	switch r.StopReason {
	case buildsv1.StopReason_STOP_REASON_DEADLINE:
		tx.end(r, Failed, BlameTimeout, fmt.Sprintf("the build did not end before its deadline (%s)", r.Build.Deadline.AsTime().UTC().Format("2006-01-02 15:04:05Z")))
	case buildsv1.StopReason_STOP_REASON_UNSEALABLE:
		tx.end(r, Failed, BlameInfrastructure, r.StopMessage)
	case buildsv1.StopReason_STOP_REASON_OPERATOR:
		tx.end(r, Cancelled, BlameCancelled, withReason("cancelled by an operator", r.StopMessage))
	default:
		tx.end(r, Cancelled, BlameCancelled, withReason("cancelled by its requester", r.StopMessage))
	}
}

// withReason appends a reason to a message, if there is one.
func withReason(message, reason string) string {
	if reason == "" {
		return message
	}
	return message + ": " + reason
}
