package cluster

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Test_Outcome_ReachesTheFollower checks that a follower receives the outcome that the leader
// reports.
func Test_Outcome_ReachesTheFollower(t *testing.T) {
	for _, c := range []struct {
		leader, follower error
		text             string
	}{
		{ErrNoLeader, ErrNoLeader, ErrNoLeader.Error()},
		{ErrClosed, ErrNoLeader, ErrNoLeader.Error()},
		{fmt.Errorf("%w: %w", ErrRefused, errors.New("no key")), ErrRefused, ErrRefused.Error() + ": no key"},
		{fmt.Errorf("%w: %w", ErrRefused, status.Error(codes.Unknown, "no key")), ErrRefused, ErrRefused.Error() + ": rpc error: code = Unknown desc = no key"},
		{fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrClosed), ErrOutcomeUnknown, ErrOutcomeUnknown.Error() + ": " + ErrClosed.Error()},
		{errors.New("something else"), ErrOutcomeUnknown, ErrOutcomeUnknown.Error() + ": something else"},
	} {
		err := forwardError(outcomeStatus(c.leader))
		if !errors.Is(err, c.follower) || err.Error() != c.text {
			t.Errorf("%v: the follower reports %v, want %q", c.leader, err, c.text)
		}
	}
}

// Test_ForwardError_ProvesThatNothingWasProposed checks errors that a leader of this version does
// not return: those of gRPC, and the refusal of a leader of version 0.3.0.
func Test_ForwardError_ProvesThatNothingWasProposed(t *testing.T) {
	for _, c := range []struct {
		code codes.Code
		text string
		want error
	}{
		{codes.Unknown, "no sealing key is held by all nodes", ErrOutcomeUnknown},
		{codes.Internal, "server closed the stream without sending trailers", ErrOutcomeUnknown},
		{codes.Unavailable, "error reading from server: EOF", ErrOutcomeUnknown},
		{codes.Unavailable, "connection error: connection refused", ErrNoLeader},
		{codes.Canceled, "context canceled", ErrOutcomeUnknown},
		{codes.DeadlineExceeded, "context deadline exceeded", ErrOutcomeUnknown},
		{codes.ResourceExhausted, "received message larger than max", ErrRefused},
		{codes.InvalidArgument, "the command cannot be decoded", ErrRefused},
		{codes.PermissionDenied, "the certificate names another node", ErrRefused},
	} {
		if err := forwardError(status.Error(c.code, c.text)); !errors.Is(err, c.want) {
			t.Errorf("%s %q: got %v, want %v", c.code, c.text, err, c.want)
		}
	}
}
