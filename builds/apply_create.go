package builds

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/image-builder-ha/image-builder/faults"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// joinEndedWithin is how long after its end a build that succeeded can be joined by a request that
// looked for the image before the end. Later the image may have been removed from the registry.
const joinEndedWithin = time.Minute

// createBuild returns the first of these builds that exists: the build of the request id; the
// active build of the ref, or its successor, if the request can join it; the newest build of the
// ref, if it succeeded after the requester looked for the image; a new build. A command that announces
// secrets and has none creates no build (JoinLevel).
func (tx *change) createBuild(c *buildsv1.CreateBuild) Result {
	if c.Id == "" || c.Ref == "" { // a snapshot with such a build could not be restored
		return Result{Err: errors.New("the command has no build id or no image reference")}
	}
	if res, known := tx.repeated(c); known {
		return res
	}
	if c.RequestId != "" && !tx.roomForRequest() {
		return Result{Err: &BusyError{ErrTooManyRequests, maxRetryAfter}}
	}
	if tx.Active(c.Ref) != nil && !faults.Mutant("dedupe-outside-apply") {
		switch r, err := tx.Join(c.Ref, c.Source, c.Fresh); {
		case err != nil:
			return Result{Err: err}
		case r != nil:
			return tx.attach(r, c)
		}
		return tx.create(c, true)
	}
	if r := tx.Newest(c.Ref); r != nil && !c.Force && r.Build.Phase == Succeeded && r.EndedIndex > c.CheckedIndex {
		if age := tx.time - r.Build.EndedAt.AsTime().UnixNano(); tx.level >= lookAgainLevel && age > int64(joinEndedWithin) {
			return Result{Err: ErrLookAgain}
		}
		tx.remember(c, r.Build.Id, true)
		return Result{Build: r.Build, Attached: true}
	}
	return tx.create(c, false)
}

// Join returns the build of an image that a request joins: the active build or its successor. It
// returns nil if the request needs a new build. An image has one successor at most, so Join returns
// ErrOtherSuccessor if the request can join neither.
func (s *State) Join(ref string, source *imagebuilderv1.Source, fresh bool) (*buildsv1.Record, error) {
	active := s.Active(ref)
	if active == nil {
		return nil, nil
	}
	if s.canJoin(active, source, fresh) {
		return active, nil
	}
	// The active build is about to end, or it is too old for a fresh request.
	id, ok := s.successors.Get(ref)
	if !ok {
		return nil, nil
	}
	next := s.Build(id)
	if s.level >= freshLevel && !s.canJoin(next, source, fresh) {
		return nil, ErrOtherSuccessor
	}
	return next, nil
}

// canJoin reports whether a request joins a build of its image that has not ended. A fresh request
// joins only a build that begins later than the request and does what the request demands: that
// build is forced too, or has the same source. Any other build may copy a base image that exists
// already. Gitpod's clients repeat a forced request without a request id, so that their requests
// are not fresh: they have to find the build of the first request.
func (s *State) canJoin(r *buildsv1.Record, source *imagebuilderv1.Source, fresh bool) bool {
	if r.StopReason != buildsv1.StopReason_STOP_REASON_UNSPECIFIED {
		return false
	}
	if !fresh || s.level < freshLevel {
		return true
	}
	return len(r.Build.Attempts) == 0 && (r.Build.Force || proto.Equal(r.Build.Source, source))
}

// repeated returns the result of a request id, if it is known.
func (tx *change) repeated(c *buildsv1.CreateBuild) (Result, bool) {
	if c.RequestId == "" {
		return Result{}, false
	}
	req := tx.Request(c.Requester, c.RequestId)
	if req == nil {
		return Result{}, false
	}
	if !bytes.Equal(req.Hash, c.RequestHash) {
		return Result{Err: ErrRequestReused}, true
	}
	r := tx.Build(req.BuildId)
	if r == nil {
		return Result{Err: ErrRequestForgotten}, true
	}
	return Result{Build: r.Build, Attached: req.Attached, Repeated: true}, true
}

// attach adds the requester to a build.
func (tx *change) attach(r *buildsv1.Record, c *buildsv1.CreateBuild) Result {
	tx.remember(c, r.Build.Id, true)
	if !slices.Contains(r.Build.Requesters, c.Requester) {
		r = edit(r)
		r.Build.Requesters = append(r.Build.Requesters, c.Requester)
		r.Detached = slices.DeleteFunc(r.Detached, func(s string) bool { return s == c.Requester })
		tx.put(r)
	}
	return Result{Build: r.Build, Attached: true}
}

// create adds a new build. A successor waits until the active build of its ref ends.
func (tx *change) create(c *buildsv1.CreateBuild, successor bool) Result {
	if tx.level >= hasSecretsLevel && c.HasSecrets && c.Sealed == nil {
		return Result{Err: ErrSecretsLost}
	}
	if err := tx.queueRefusal(c.Requester); err != nil {
		return Result{Err: err}
	}
	if tx.Build(c.Id) != nil { // the same command was proposed twice
		return Result{Build: tx.Build(c.Id).Build, Repeated: true}
	}
	r := &buildsv1.Record{
		Build: &imagebuilderv1.Build{
			Id:         c.Id,
			Ref:        c.Ref,
			BaseRef:    c.BaseRef,
			Source:     c.Source,
			Phase:      Queued,
			Requester:  c.Requester,
			Requesters: []string{c.Requester},
			Labels:     c.Labels,
			CreatedAt:  tx.now(),
			Deadline:   timestamppb.New(time.Unix(0, tx.time+c.TimeoutNanos)),
			Force:      c.Force,
		},
		Rights:       c.Rights,
		Secrets:      c.Sealed,
		Successor:    successor,
		CreatedIndex: tx.index,

		SupervisorRef: c.SupervisorRef,
	}
	if tx.level >= traceLevel && tracing.Valid(c.Traceparent) {
		r.Traceparent = c.Traceparent
	}
	tx.remember(c, c.Id, false)
	tx.put(r)
	return Result{Build: r.Build}
}
