package history

import (
	"strings"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Phase is the phase of a build, as in the API: lower case, without prefix.
type Phase string

// The phases of builds.
const (
	Queued    Phase = "queued"
	Assigned  Phase = "assigned"
	Starting  Phase = "starting"
	Running   Phase = "running"
	Pushing   Phase = "pushing"
	Succeeded Phase = "succeeded"
	Failed    Phase = "failed"
	Cancelled Phase = "cancelled"
)

// phaseOf returns the phase of the API's enum, "" if it is not set.
func phaseOf(p imagebuilderv1.Phase) Phase {
	if p == imagebuilderv1.Phase_PHASE_UNSPECIFIED {
		return ""
	}
	return Phase(strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_")))
}

// Terminal reports whether a build in this phase has ended.
func (p Phase) Terminal() bool { return p == Succeeded || p == Failed || p == Cancelled }

// live reports whether a build in this phase has an owner. A successor that waits has none.
func (p Phase) live() bool { return p != "" && p != Queued && !p.Terminal() }

// active reports whether a build in this phase has not ended.
func (p Phase) active() bool { return p != "" && !p.Terminal() }

// verb returns the terminal phase as a participle that follows `has`.
func (p Phase) verb() string {
	if p == Cancelled {
		return "been cancelled"
	}
	return string(p)
}
