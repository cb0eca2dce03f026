package history

import (
	"fmt"
	"strings"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Kind is what a client asked for.
type Kind string

// The kinds of operations.
const (
	// Create is BuildImage.
	Create Kind = "create"
	// Read is BuildStatus by id, without waiting.
	Read Kind = "read"
	// Cancel is CancelBuild.
	Cancel Kind = "cancel"
	// Observe is the terminal phase that a wait or a watch showed.
	Observe Kind = "observe"
)

// Operation is one request of a client.
type Operation struct {
	Kind Kind `json:"kind"`
	// Ref is what to build. The native API takes a source; a driver uses one
	// source per ref. Create only; the others name a build by ID.
	Ref string `json:"ref,omitempty"`
	ID  string `json:"id,omitempty"`
	// Requester scopes RequestID and is who cancels.
	Requester string `json:"requester,omitempty"`
	RequestID string `json:"requestId,omitempty"`
	Force     bool   `json:"force,omitempty"`
	// Operator: the cancellation stops the build whoever wants it.
	Operator bool `json:"operator,omitempty"`
	// Linearizable and MinIndex are how fresh a read has to be.
	Linearizable bool   `json:"linearizable,omitempty"`
	MinIndex     uint64 `json:"minIndex,omitempty"`
}

// Outcome is the answer to an operation.
type Outcome struct {
	// Build is the build in the answer; empty if Exists or NotFound.
	Build Seen `json:"build,omitzero"`
	// Index is the index up to which the answering node had applied.
	Index uint64 `json:"index,omitempty"`
	// Attached: the request joined a build that was there already.
	Attached bool `json:"attached,omitempty"`
	// Exists: the image is there, no build is needed.
	Exists bool `json:"exists,omitempty"`
	// NotFound: there is no such build.
	NotFound bool `json:"notFound,omitempty"`
	// Detached, TooLate and NotRequester are answers to Cancel. With none of
	// them the build stops or is over.
	Detached     bool `json:"detached,omitempty"`
	TooLate      bool `json:"tooLate,omitempty"`
	NotRequester bool `json:"notRequester,omitempty"`
}

// Seen is what an answer tells of a build. Only ID is required; what is left
// out is not judged.
type Seen struct {
	ID              string `json:"id,omitempty"`
	Phase           Phase  `json:"phase,omitempty"`
	CancelRequested bool   `json:"cancelRequested,omitempty"`
	Digest          string `json:"digest,omitempty"`
	// Version is the index of the build's last change.
	Version uint64 `json:"version,omitempty"`
	// CreatedIndex is the index that created the build, where it is known.
	CreatedIndex uint64 `json:"createdIndex,omitempty"`
	// CreatedAt and EndedAt are the service's own times, in nanoseconds since
	// the Unix epoch. They never go back, so they order the builds of a ref.
	CreatedAt int64 `json:"createdAt,omitempty"`
	EndedAt   int64 `json:"endedAt,omitempty"`
	// Overdue: the build ended at or after its deadline, which may have made
	// room for a successor while it still ran.
	Overdue bool `json:"overdue,omitempty"`
}

// See answers what a message of the API tells of a build.
func See(b *imagebuilderv1.Build) Seen {
	s := Seen{
		ID:              b.GetId(),
		Phase:           phaseOf(b.GetPhase()),
		CancelRequested: b.GetCancelRequested(),
		Digest:          b.GetDigest(),
		Version:         b.GetVersion(),
	}
	if t := b.GetCreatedAt(); t != nil {
		s.CreatedAt = t.AsTime().UnixNano()
	}
	if t := b.GetEndedAt(); t != nil {
		s.EndedAt = t.AsTime().UnixNano()
		if d := b.GetDeadline(); d != nil {
			s.Overdue = !t.AsTime().Before(d.AsTime())
		}
	}
	return s
}

// Created answers the outcome of BuildImage.
func Created(res *imagebuilderv1.BuildImageResponse) Outcome {
	o := Outcome{Attached: res.GetAttached(), Exists: res.GetExists(), Index: res.GetRead().GetIndex()}
	if o.Exists {
		return o
	}
	o.Build = See(res.GetBuild())
	if b := res.GetBuild(); !o.Attached && b.GetPhase() == imagebuilderv1.Phase_PHASE_QUEUED && len(b.GetAttempts()) == 0 && len(b.GetRequesters()) == 1 {
		// Nothing but its creation has changed it, or only its requesters; the
		// version is not below the index that created it.
		o.Build.CreatedIndex = b.GetVersion()
	}
	return o
}

// Phase is where a build stands.
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

func phaseOf(p imagebuilderv1.Phase) Phase {
	if p == imagebuilderv1.Phase_PHASE_UNSPECIFIED {
		return ""
	}
	return Phase(strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_")))
}

// Terminal reports whether a build in this phase is over.
func (p Phase) Terminal() bool { return p == Succeeded || p == Failed || p == Cancelled }

// live reports whether a build in this phase has an owner, which a successor
// never has.
func (p Phase) live() bool { return p != "" && p != Queued && !p.Terminal() }

// active reports whether a build in this phase is not over.
func (p Phase) active() bool { return p != "" && !p.Terminal() }

// Status is how a call ended for its client.
type Status string

// The ways in which a call ends.
const (
	// OK: it was answered.
	OK Status = "ok"
	// Unknown: it may have taken effect at any time after its start, or never.
	Unknown Status = "unknown"
	// Refused: it certainly had no effect.
	Refused Status = "failed"
)

// Record is one call of a history.
type Record struct {
	Client string    `json:"client"`
	Op     Operation `json:"op"`
	Status Status    `json:"status"`
	Out    Outcome   `json:"out,omitzero"`
	Error  string    `json:"error,omitempty"`
	// Start and End order the calls: a call that ended before another one
	// started has the smaller number. End is 0 while the call is under way.
	Start int64 `json:"start"`
	End   int64 `json:"end,omitempty"`
	// StartedAt and EndedAt are for people.
	StartedAt time.Time `json:"startedAt,omitzero"`
	EndedAt   time.Time `json:"endedAt,omitzero"`
}

// History is what clients asked and were answered, in the order of the calls'
// starts.
type History []Record

// String renders the call on one line.
func (r Record) String() string {
	end := fmt.Sprint(r.End)
	if r.End == 0 {
		end = "…"
	}
	return fmt.Sprintf("[%d–%s] %s: %s -> %s", r.Start, end, r.Client, r.Op, r.answer())
}

// String renders the operation.
func (o Operation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s%s", o.Kind, o.Ref, o.ID)
	for _, p := range []struct {
		name, value string
	}{{"requester", o.Requester}, {"request id", o.RequestID}} {
		if p.value != "" {
			fmt.Fprintf(&b, " %s %s", p.name, p.value)
		}
	}
	if o.MinIndex > 0 {
		fmt.Fprintf(&b, " min index %d", o.MinIndex)
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"forced", o.Force}, {"by operator", o.Operator}, {"linearizable", o.Linearizable}} {
		if f.set {
			b.WriteString(" " + f.name)
		}
	}
	return b.String()
}

func (r Record) answer() string {
	switch {
	case r.Status == OK:
		return r.Out.String()
	case r.Error != "":
		return string(r.Status) + ": " + r.Error
	}
	return string(r.Status)
}

// String renders the answer.
func (o Outcome) String() string {
	var parts []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"exists", o.Exists},
		{"not found", o.NotFound},
		{"attached", o.Attached},
		{"detached", o.Detached},
		{"too late", o.TooLate},
		{"not its requester", o.NotRequester},
	} {
		if f.set {
			parts = append(parts, f.name)
		}
	}
	if b := o.Build; b.ID != "" || b.Phase != "" {
		parts = append(parts, strings.TrimSpace("build "+b.ID+" "+string(b.Phase)))
		if b.CancelRequested {
			parts = append(parts, "cancel requested")
		}
		if b.Digest != "" {
			parts = append(parts, b.Digest)
		}
		if b.Version > 0 {
			parts = append(parts, fmt.Sprintf("version %d", b.Version))
		}
	}
	if o.Index > 0 {
		parts = append(parts, fmt.Sprintf("index %d", o.Index))
	}
	return strings.Join(parts, ", ")
}
