package builds

import (
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Short names of the phases, blames and log states of package imagebuilderv1.
const (
	Queued    = imagebuilderv1.Phase_PHASE_QUEUED
	Assigned  = imagebuilderv1.Phase_PHASE_ASSIGNED
	Starting  = imagebuilderv1.Phase_PHASE_STARTING
	Running   = imagebuilderv1.Phase_PHASE_RUNNING
	Pushing   = imagebuilderv1.Phase_PHASE_PUSHING
	Succeeded = imagebuilderv1.Phase_PHASE_SUCCEEDED
	Failed    = imagebuilderv1.Phase_PHASE_FAILED
	Cancelled = imagebuilderv1.Phase_PHASE_CANCELLED

	BlameUser           = imagebuilderv1.Blame_BLAME_USER
	BlameInfrastructure = imagebuilderv1.Blame_BLAME_INFRASTRUCTURE
	BlameCancelled      = imagebuilderv1.Blame_BLAME_CANCELLED
	BlameTimeout        = imagebuilderv1.Blame_BLAME_TIMEOUT
	BlameQuota          = imagebuilderv1.Blame_BLAME_QUOTA

	LogOpen    = imagebuilderv1.LogState_LOG_STATE_OPEN
	LogSealing = imagebuilderv1.LogState_LOG_STATE_SEALING
	LogSealed  = imagebuilderv1.LogState_LOG_STATE_SEALED
	LogLost    = imagebuilderv1.LogState_LOG_STATE_LOST
	LogExpired = imagebuilderv1.LogState_LOG_STATE_EXPIRED
)

// Terminal reports whether a build or attempt in this phase has ended.
func Terminal(p imagebuilderv1.Phase) bool {
	return p == Succeeded || p == Failed || p == Cancelled
}

// Live reports whether an attempt in this phase has an owner that runs it.
func Live(p imagebuilderv1.Phase) bool {
	return p >= Assigned && p <= Pushing
}

// LastAttempt returns the newest attempt of a build, or nil.
func LastAttempt(b *imagebuilderv1.Build) *imagebuilderv1.Attempt {
	if n := len(b.GetAttempts()); n > 0 {
		return b.Attempts[n-1]
	}
	return nil
}

// MaxEpoch returns the greatest epoch of all attempts of a build. The next owner of an attempt or a
// log of the build gets a greater one.
func MaxEpoch(b *imagebuilderv1.Build) uint64 {
	var e uint64
	for _, a := range b.GetAttempts() {
		e = max(e, a.GetEpoch())
	}
	return e
}
