package node

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cluster"
)

// codedError is an error of the cluster with the code that clients see.
type codedError struct {
	error
	code codes.Code
}

func (e codedError) GRPCStatus() *status.Status { return status.New(e.code, e.Error()) }

func (e codedError) Unwrap() error { return e.error }

// clusterError makes the cluster's errors UNAVAILABLE: asking again is safe.
func clusterError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	}
	return codedError{err, codes.Unavailable}
}

// refusal is the answer of a leader that did not do what it was asked for. That
// it does not lead any more is none.
func operatorError(err error) error {
	switch {
	case errors.Is(err, cluster.ErrNoLeader), errors.Is(err, cluster.ErrClosed):
		return codedError{err, codes.Unavailable}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	}
	return codedError{err, codes.FailedPrecondition}
}
