package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Contexts stores build contexts where every node can fetch them.
type Contexts interface {
	// Exists reports whether a context is stored.
	Exists(ctx context.Context, digest string) (bool, error)
	// Put stores the file at path under its digest, which the caller checked.
	Put(ctx context.Context, digest, path string) error
}

var validDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// UploadContext stores a build context.
func (n Native) UploadContext(stream imagebuilderv1.ImageBuilder_UploadContextServer) error {
	if n.contexts == nil {
		return status.Error(codes.FailedPrecondition, "no runtime for Dockerfile builds is configured")
	}
	first, err := stream.Recv()
	if err != nil {
		return apiError(invalidf("the upload is empty: name its digest in the first message"))
	}
	want := first.GetDigest()
	if !validDigest.MatchString(want) {
		return apiError(invalidf("digest must be sha256: and 64 hex digits of the archive"))
	}
	ctx := stream.Context()
	if found, err := n.contexts.Exists(ctx, want); err != nil {
		return apiError(err)
	} else if found {
		return stream.SendAndClose(&imagebuilderv1.UploadContextResponse{Digest: want, Existed: true})
	}
	f, err := os.CreateTemp(n.tempDir, "context-*.tar")
	if err != nil {
		return status.Errorf(codes.Unavailable, "make room for the upload: %v", err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	size, err := receive(stream, first.GetChunk(), f, want, n.maxContext)
	if err != nil {
		return apiError(err)
	}
	if err := n.contexts.Put(ctx, want, f.Name()); err != nil {
		return apiError(err)
	}
	return stream.SendAndClose(&imagebuilderv1.UploadContextResponse{Digest: want, SizeBytes: size})
}

// receive writes an upload to a file and checks size and digest.
func receive(stream imagebuilderv1.ImageBuilder_UploadContextServer, chunk []byte, f *os.File, want string, limit int64) (size int64, err error) {
	sum := sha256.New()
	for {
		if size += int64(len(chunk)); size > limit {
			return 0, status.Errorf(codes.ResourceExhausted, "the context is larger than the limit of %d bytes; leave files out with .dockerignore", limit)
		}
		if _, err := io.MultiWriter(f, sum).Write(chunk); err != nil {
			return 0, status.Errorf(codes.Unavailable, "store the upload: %v", err)
		}
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		chunk = m.GetChunk()
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != want {
		return 0, invalidf("the upload has digest %s, not %s as announced", got, want)
	}
	return size, nil
}

// needContext makes sure that a context that a source names was uploaded.
func (s *Service) needContext(ctx context.Context, src *imagebuilderv1.Source) error {
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
