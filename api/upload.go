package api

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// UploadContext stores a build context under its digest, which the first message names.
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
		return status.Errorf(codes.Unavailable, "create a file for the upload: %v", err)
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

// receive writes an upload to a file and checks its size and digest. chunk is the content of the
// first message. limit is in bytes.
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
