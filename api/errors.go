package api

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/builds"
)

// apiError maps an error to a gRPC status. An error that already is a status keeps its code.
func apiError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	var invalid *builds.InvalidError
	var image *builds.ImageError
	var busy *builds.BusyError
	switch {
	case errors.As(err, &invalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.As(err, &image):
		return imageStatus(image, err)
	case errors.Is(err, builds.ErrRequestReused):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, builds.ErrLogDamaged):
		return status.Error(codes.DataLoss, err.Error())
	case errors.Is(err, builds.ErrLogAway): // before ErrNotFound, which one of its nodes may have returned
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, builds.ErrNotFound), errors.Is(err, builds.ErrNotCached):
		return status.Error(codes.NotFound, err.Error())
	case errors.As(err, &busy):
		return busyStatus(busy, err)
	case errors.Is(err, builds.ErrSecretsLost), errors.Is(err, builds.ErrOtherSuccessor), errors.Is(err, builds.ErrLookAgain):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, builds.ErrNotRequester):
		return status.Error(codes.PermissionDenied, err.Error())
	case errors.Is(err, builds.ErrTooLate), errors.Is(err, builds.ErrRequestForgotten):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, builds.ErrResubscribe):
		return status.Error(codes.OutOfRange, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

// busyStatus returns RESOURCE_EXHAUSTED with google.rpc.RetryInfo, which says when to try again.
func busyStatus(busy *builds.BusyError, err error) error {
	st := status.New(codes.ResourceExhausted, err.Error())
	if with, derr := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(busy.RetryAfter)}); derr == nil {
		st = with
	}
	return st.Err()
}

// imageStatus maps an error of a registry to a gRPC status. Gitpod's server blames the user if a
// message contains `cannot resolve image`. Therefore only failures of the user have this text
// (section 5 of docs/gitpod-contract.md).
func imageStatus(image *builds.ImageError, err error) error {
	switch image.Kind {
	case builds.ImageInvalid:
		return status.Error(codes.InvalidArgument, err.Error())
	case builds.ImageNotFound:
		return status.Error(codes.NotFound, "cannot resolve image: "+err.Error())
	case builds.ImageUnauthorized:
		return status.Error(codes.Unauthenticated, "cannot resolve image: "+err.Error())
	}
	return status.Error(codes.Unavailable, "the registry cannot be asked now, try again: "+err.Error())
}

// invalidf returns the error of an invalid request. Clients receive INVALID_ARGUMENT.
func invalidf(format string, args ...any) error {
	return &builds.InvalidError{Reason: fmt.Sprintf(format, args...)}
}
