package history

import (
	"fmt"
	"strings"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Kind is the kind of an operation.
type Kind string

// The kinds of operations.
const (
	// Create is BuildImage.
	Create Kind = "create"
	// Read is BuildStatus by id, without waiting for a phase.
	Read Kind = "read"
	// Cancel is CancelBuild.
	Cancel Kind = "cancel"
	// Observe is the observation of a terminal phase by a wait or a watch.
	Observe Kind = "observe"
)

// Operation is one request of a client.
type Operation struct {
	Kind Kind `json:"kind"`
	// Ref names the image to build; Create only. The native API takes a source, and a driver uses
	// one source per ref. The other kinds name a build by ID.
	Ref string `json:"ref,omitempty"`
	ID  string `json:"id,omitempty"`
	// Requester is the requester of a create or a cancellation. RequestID is unique per requester.
	Requester string `json:"requester,omitempty"`
	RequestID string `json:"requestId,omitempty"`
	Force     bool   `json:"force,omitempty"`
	// Operator is set if the cancellation stops the build whoever requested it.
	Operator bool `json:"operator,omitempty"`
	// Linearizable and MinIndex are the requested freshness of a read.
	Linearizable bool   `json:"linearizable,omitempty"`
	MinIndex     uint64 `json:"minIndex,omitempty"`
	// List is set if the read was a list that must contain the build.
	List bool `json:"list,omitempty"`
}

// Outcome is the response to an operation.
type Outcome struct {
	// Build is the build in the response; empty if Exists or NotFound is set.
	Build BuildState `json:"build,omitzero"`
	// Index is the Raft index up to which the responding node had applied the log.
	Index uint64 `json:"index,omitempty"`
	// Attached is set if the request joined an existing build.
	Attached bool `json:"attached,omitempty"`
	// Exists is set if the image exists and no build is needed.
	Exists bool `json:"exists,omitempty"`
	// NotFound is set if there is no such build.
	NotFound bool `json:"notFound,omitempty"`
	// Detached, TooLate and NotRequester are responses to Cancel. If none is set, the build stops or
	// has ended.
	Detached     bool `json:"detached,omitempty"`
	TooLate      bool `json:"tooLate,omitempty"`
	NotRequester bool `json:"notRequester,omitempty"`
}

// BuildState is the state of a build in a response. Only ID is required; empty fields are not
// judged.
type BuildState struct {
	ID              string `json:"id,omitempty"`
	Phase           Phase  `json:"phase,omitempty"`
	CancelRequested bool   `json:"cancelRequested,omitempty"`
	Digest          string `json:"digest,omitempty"`
	// Version is the Raft index of the build's last change.
	Version uint64 `json:"version,omitempty"`
	// CreatedIndex is the Raft index of the build's creation; 0 if it is not known.
	CreatedIndex uint64 `json:"createdIndex,omitempty"`
	// CreatedAt and EndedAt are times of the service, in nanoseconds since the Unix epoch. They never
	// go back, so they order the builds of a ref.
	CreatedAt int64 `json:"createdAt,omitempty"`
	EndedAt   int64 `json:"endedAt,omitempty"`
	// Overdue is set if the build ended at or after its deadline. A successor may have been created
	// while it still ran.
	Overdue bool `json:"overdue,omitempty"`
}

// BuildStateOf returns the state of a build in a message of the API.
func BuildStateOf(b *imagebuilderv1.Build) BuildState {
	s := BuildState{
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

// Created returns the outcome of a successful BuildImage.
func Created(res *imagebuilderv1.BuildImageResponse) Outcome {
	o := Outcome{Attached: res.GetAttached(), Exists: res.GetExists(), Index: res.GetRead().GetIndex()}
	if o.Exists {
		return o
	}
	o.Build = BuildStateOf(res.GetBuild())
	if b := res.GetBuild(); !o.Attached && b.GetPhase() == imagebuilderv1.Phase_PHASE_QUEUED && len(b.GetAttempts()) == 0 && len(b.GetRequesters()) == 1 {
		// The build has not changed since its creation, except perhaps in its requesters. So the
		// version is at or after the index of the creation.
		o.Build.CreatedIndex = b.GetVersion()
	}
	return o
}

// Status is the result of a call for its client.
type Status string

// The results of a call.
const (
	// OK is the status of a call with a response.
	OK Status = "ok"
	// Unknown is the status of a call that may have taken effect at any time after its start, or
	// never.
	Unknown Status = "unknown"
	// Refused is the status of a call that certainly had no effect.
	Refused Status = "failed"
)

// Record is one call of a history.
type Record struct {
	Client string    `json:"client"`
	Op     Operation `json:"op"`
	Status Status    `json:"status"`
	Out    Outcome   `json:"out,omitzero"`
	Error  string    `json:"error,omitempty"`
	// Start and End order the calls: if a call ended before another one started, its End is smaller
	// than the other's Start. End is 0 while the call is in progress.
	Start int64 `json:"start"`
	End   int64 `json:"end,omitempty"`
	// StartedAt and EndedAt are times for reports. They are not judged.
	StartedAt time.Time `json:"startedAt,omitzero"`
	EndedAt   time.Time `json:"endedAt,omitzero"`
}

// History is the calls of all clients, in the order of their starts.
type History []Record

// String renders the call in one line.
func (r Record) String() string {
	end := fmt.Sprint(r.End)
	if r.End == 0 {
		end = "…"
	}
	return fmt.Sprintf("[%d–%s] %s: %s -> %s", r.Start, end, r.Client, r.Op, r.response())
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
	}{{"forced", o.Force}, {"by operator", o.Operator}, {"linearizable", o.Linearizable}, {"by a list", o.List}} {
		if f.set {
			b.WriteString(" " + f.name)
		}
	}
	return b.String()
}

// response renders the response or the error.
func (r Record) response() string {
	switch {
	case r.Status == OK:
		return r.Out.String()
	case r.Error != "":
		return string(r.Status) + ": " + r.Error
	}
	return string(r.Status)
}

// String renders the response.
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
