package cluster

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The outcome of a command that a node sends to the leader is a gRPC code. gRPC itself generates
// neither of the codes that a leader uses to report that it did not propose the command:
//
//	OK                   committed
//	FAILED_PRECONDITION  not proposed: the receiver does not lead, or its disk is full
//	ABORTED              not proposed: the leader refused the command, the message is the reason
//	UNKNOWN              may or may not be committed
//
// Leaders of versions up to 0.3.0 report a refusal as UNKNOWN, so that a follower cannot tell it
// from an unknown outcome. The follower then reports ErrOutcomeUnknown with the leader's text, and
// its caller repeats the command until its context ends.

// outcomeStatus returns the gRPC status of a command that this node was asked to propose as the
// leader.
func outcomeStatus(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrOutcomeUnknown):
		return status.Error(codes.Unknown, without(ErrOutcomeUnknown, err))
	case errors.Is(err, ErrNoLeader), errors.Is(err, ErrClosed):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, ErrRefused):
		return status.Error(codes.Aborted, without(ErrRefused, err))
	}
	return status.Error(codes.Unknown, err.Error())
}

// without returns the text of err without the text of the error that it wraps, which the receiver
// adds again.
func without(wrapped, err error) string {
	return strings.TrimPrefix(err.Error(), wrapped.Error()+": ")
}

// forwardError translates the error of a command that was sent to the leader. It treats an error as
// an unknown outcome unless the error proves that the command was not proposed.
func forwardError(err error) error {
	st := status.Convert(err)
	switch st.Code() {
	case codes.FailedPrecondition:
		if err := forwardedRefusal(st.Message()); err != nil {
			return err
		}
		return ErrNoLeader
	case codes.Aborted:
		return fmt.Errorf("%w: %s", ErrRefused, st.Message())
	case codes.InvalidArgument, codes.ResourceExhausted, codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented:
		return fmt.Errorf("%w: %w", ErrRefused, err) // before the leader could propose the command
	case codes.Unavailable:
		if strings.HasPrefix(st.Message(), "connection error") { // not sent
			return ErrNoLeader
		}
		return fmt.Errorf("%w: the connection to the leader broke", ErrOutcomeUnknown)
	}
	return fmt.Errorf("%w: %s", ErrOutcomeUnknown, st.Message())
}

// errStarting is the response while the peer port is open and Raft does not run yet.
var errStarting = status.Error(codes.Unavailable, "this node is starting")

// isStarting reports whether err is errStarting of another node.
func isStarting(err error) bool {
	return status.Code(err) == codes.Unavailable && status.Convert(err).Message() == status.Convert(errStarting).Message()
}
