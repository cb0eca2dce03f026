package builds

import (
	"slices"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// edit returns a copy of a record. The caller changes the copy and puts it back. The copy has its
// own build, attempts, logs of attempts, and lists of strings. It shares all other messages with r,
// so the caller replaces those and never changes them. A command can change thousands of records, so
// that a copy of everything would take too long.
func edit(r *buildsv1.Record) *buildsv1.Record {
	c := &buildsv1.Record{
		Build:             editBuild(r.Build),
		Rights:            r.Rights,
		Secrets:           r.Secrets,
		EndedIndex:        r.EndedIndex,
		CountedAttempts:   r.CountedAttempts,
		UncountedAttempts: r.UncountedAttempts,
		Successor:         r.Successor,
		StopReason:        r.StopReason,
		StopMessage:       r.StopMessage,
		CreatedIndex:      r.CreatedIndex,
		Detached:          slices.Clone(r.Detached),
		SupervisorRef:     r.SupervisorRef,
		Traceparent:       r.Traceparent,
		StopUnixNano:      r.StopUnixNano,
	}
	if u := r.ProtoReflect().GetUnknown(); len(u) > 0 {
		c.ProtoReflect().SetUnknown(u)
	}
	return c
}

func editBuild(b *imagebuilderv1.Build) *imagebuilderv1.Build {
	c := &imagebuilderv1.Build{
		Id:              b.Id,
		Ref:             b.Ref,
		BaseRef:         b.BaseRef,
		Source:          b.Source,
		Phase:           b.Phase,
		Requester:       b.Requester,
		Requesters:      slices.Clone(b.Requesters),
		Labels:          b.Labels,
		CreatedAt:       b.CreatedAt,
		StartedAt:       b.StartedAt,
		EndedAt:         b.EndedAt,
		Deadline:        b.Deadline,
		Attempts:        make([]*imagebuilderv1.Attempt, len(b.Attempts), len(b.Attempts)+1),
		Digest:          b.Digest,
		SizeBytes:       b.SizeBytes,
		Blame:           b.Blame,
		Message:         b.Message,
		CancelRequested: b.CancelRequested,
		Version:         b.Version,
		Force:           b.Force,
		NotBefore:       b.NotBefore,
		WaitingReason:   b.WaitingReason,
	}
	for i, a := range b.Attempts {
		c.Attempts[i] = editAttempt(a)
	}
	if u := b.ProtoReflect().GetUnknown(); len(u) > 0 {
		c.ProtoReflect().SetUnknown(u)
	}
	return c
}

func editAttempt(a *imagebuilderv1.Attempt) *imagebuilderv1.Attempt {
	c := &imagebuilderv1.Attempt{
		Number:          a.Number,
		Owner:           a.Owner,
		Epoch:           a.Epoch,
		Phase:           a.Phase,
		History:         slices.Clip(a.History), // an append makes a copy
		Blame:           a.Blame,
		Message:         a.Message,
		Digest:          a.Digest,
		StartedAt:       a.StartedAt,
		EndedAt:         a.EndedAt,
		Counted:         a.Counted,
		Log:             editLog(a.Log),
		Runtime:         a.Runtime,
		Steps:           a.Steps,
		OwnerStoreId:    a.OwnerStoreId,
		Adoptable:       a.Adoptable,
		WorkloadCreated: a.WorkloadCreated,
	}
	if u := a.ProtoReflect().GetUnknown(); len(u) > 0 {
		c.ProtoReflect().SetUnknown(u)
	}
	return c
}

func editLog(l *imagebuilderv1.AttemptLog) *imagebuilderv1.AttemptLog {
	if l == nil {
		return nil
	}
	c := &imagebuilderv1.AttemptLog{
		State:    l.State,
		Length:   l.Length,
		Checksum: l.Checksum,
		Copies:   l.Copies,
		Replicas: l.Replicas,
		Sealer:   l.Sealer,
	}
	if u := l.ProtoReflect().GetUnknown(); len(u) > 0 {
		c.ProtoReflect().SetUnknown(u)
	}
	return c
}
