package peer

import (
	"errors"

	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// appendToProto is the inverse of appendFromProto.
func appendToProto(a logs.Append) *buildsv1.LogAppend {
	return &buildsv1.LogAppend{
		BuildId: a.Key.Build, Attempt: a.Key.Attempt, Epoch: a.Epoch, Offset: a.Offset, Records: a.Records,
		Cut: a.Cut, Reset_: a.Reset, Visible: a.Visible, Incarnation: a.Incarnation, Former: a.Former,
		Source: a.Source, Truncated: a.Truncated, Sequence: a.Sequence,
	}
}

// appendFromProto is the inverse of appendToProto. Both share the records with their argument.
func appendFromProto(m *buildsv1.LogAppend) logs.Append {
	return logs.Append{
		Key: logs.Key{Build: m.GetBuildId(), Attempt: m.GetAttempt()}, Epoch: m.GetEpoch(), Offset: m.GetOffset(), Records: m.GetRecords(),
		Cut: m.GetCut(), Reset: m.GetReset_(), Visible: m.GetVisible(), Incarnation: m.GetIncarnation(), Former: m.GetFormer(),
		Source: m.GetSource(), Truncated: m.GetTruncated(), Sequence: m.GetSequence(),
	}
}

// ackToProto converts an ack. Of the errors, only logs.ErrFenced and logs.ErrReplaced keep their
// identity.
func ackToProto(a logs.Ack) *buildsv1.LogAck {
	m := &buildsv1.LogAck{Length: a.Length, Incarnation: a.Incarnation}
	switch {
	case errors.Is(a.Refusal, logs.ErrReplaced):
		m.Refusal = buildsv1.LogRefusal_LOG_REFUSAL_REPLACED
	case errors.Is(a.Refusal, logs.ErrFenced):
		m.Refusal = buildsv1.LogRefusal_LOG_REFUSAL_FENCED
	case a.Refusal != nil:
		m.Refusal, m.Message = buildsv1.LogRefusal_LOG_REFUSAL_FAILED, a.Refusal.Error()
	}
	return m
}

// ackFromProto converts the message of ackToProto back.
func ackFromProto(m *buildsv1.LogAck) logs.Ack {
	a := logs.Ack{Length: m.GetLength(), Incarnation: m.GetIncarnation()}
	switch m.GetRefusal() {
	case buildsv1.LogRefusal_LOG_REFUSAL_REPLACED:
		a.Refusal = logs.ErrReplaced
	case buildsv1.LogRefusal_LOG_REFUSAL_FENCED:
		a.Refusal = logs.ErrFenced
	case buildsv1.LogRefusal_LOG_REFUSAL_FAILED:
		a.Refusal = errors.New(m.GetMessage())
	}
	return a
}
