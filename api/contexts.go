package api

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// requireContext checks that the uploaded context of a source is stored, if the source names one.
func (s *Service) requireContext(ctx context.Context, src *imagebuilderv1.Source) error {
	up := src.GetDockerfile().GetUpload()
	if up == nil {
		return nil
	}
	if s.contexts == nil {
		return status.Error(codes.FailedPrecondition, "no runtime for Dockerfile builds is configured")
	}
	found, err := s.contexts.Exists(ctx, up.GetDigest())
	if err != nil {
		return fmt.Errorf("look for the uploaded context: %w", err)
	}
	if !found {
		return status.Errorf(codes.FailedPrecondition, "context %s was not uploaded, or is no longer kept: upload it again", up.GetDigest())
	}
	return nil
}
