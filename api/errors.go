package api

import (
	"context"
	"errors"

	"github.com/image-builder-ha/image-builder/builds"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// apiError maps an error of the domain to a gRPC status. It is the only place
// where codes are chosen, but for errors that come with one.
func apiError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	var invalid *builds.InvalidError
	var image *builds.ImageError
	switch {
	case errors.As(err, &invalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.As(err, &image):
		return imageStatus(image, err)
	case errors.Is(err, builds.ErrRequestReused):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, builds.ErrLogDamaged):
		return status.Error(codes.DataLoss, err.Error())
	case errors.Is(err, builds.ErrLogAway): // also where one of its nodes has no copy
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, builds.ErrNotFound), errors.Is(err, builds.ErrNotCached):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, builds.ErrQueueFull):
		return status.Error(codes.ResourceExhausted, err.Error())
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

// imageStatus follows the wire contract: `cannot resolve image` makes a
// failure the caller's fault, so it stands only where it is.
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
