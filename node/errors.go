package node

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cluster"
)

// codedError is an error with the gRPC code that clients see.
type codedError struct {
	error
	code codes.Code
}

// GRPCStatus returns the status that package status makes of the error.
func (e codedError) GRPCStatus() *status.Status { return status.New(e.code, e.Error()) }

// Unwrap returns the error without the code.
func (e codedError) Unwrap() error { return e.error }

// clusterError maps an error of the cluster to UNAVAILABLE: the caller may repeat the call. It
// returns a cancelled context as it is.
func clusterError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	}
	return codedError{err, codes.Unavailable}
}

// operatorError maps an error of an operation that was requested from the leader. The leader has
// refused it, which is FAILED_PRECONDITION, unless it no longer leads: then the caller may try the
// next leader, and the code is UNAVAILABLE.
func operatorError(err error) error {
	switch {
	case errors.Is(err, cluster.ErrNoLeader), errors.Is(err, cluster.ErrClosed), errors.Is(err, cluster.ErrOutcomeUnknown):
		return codedError{err, codes.Unavailable}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	}
	return codedError{err, codes.FailedPrecondition}
}
