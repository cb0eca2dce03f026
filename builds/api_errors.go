package builds

import (
	"context"
	"errors"

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
	var invalid *InvalidError
	var image *ImageError
	switch {
	case errors.As(err, &invalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.As(err, &image):
		return imageStatus(image, err)
	case errors.Is(err, ErrRequestReused):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, ErrLogDamaged):
		return status.Error(codes.DataLoss, err.Error())
	case errors.Is(err, ErrLogAway): // also where one of its nodes has no copy
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrNotCached):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, ErrQueueFull):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, ErrNotRequester):
		return status.Error(codes.PermissionDenied, err.Error())
	case errors.Is(err, ErrTooLate), errors.Is(err, ErrRequestForgotten):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, ErrResubscribe):
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
func imageStatus(image *ImageError, err error) error {
	switch image.Kind {
	case ImageInvalid:
		return status.Error(codes.InvalidArgument, err.Error())
	case ImageNotFound:
		return status.Error(codes.NotFound, "cannot resolve image: "+err.Error())
	case ImageUnauthorized:
		return status.Error(codes.Unauthenticated, "cannot resolve image: "+err.Error())
	}
	return status.Error(codes.Unavailable, "the registry cannot be asked now, try again: "+err.Error())
}
