package request

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// upload uploads the output of write, unless the service has it, and returns its digest. It calls
// write for the digest and for each try to send it. write has to write the same bytes each time.
func upload(ctx context.Context, api imagebuilderv1.ImageBuilderClient, write func(io.Writer) error) (string, error) {
	sum := sha256.New()
	if err := write(sum); err != nil {
		return "", cli.ExitWith(cli.ExitUsage, fmt.Errorf("read the context: %w", err))
	}
	digest := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	_, err := withRetries(ctx, func(ctx context.Context) (*imagebuilderv1.UploadContextResponse, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := api.UploadContext(ctx)
		if err != nil {
			return nil, err
		}
		w := &uploadWriter{stream: stream, digest: digest}
		if err := write(w); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err := w.flush(); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return stream.CloseAndRecv() // also has the reason of a Send that failed with EOF
	})
	return digest, err
}

// uploadArchive uploads a tar archive from standard input without its compression, and returns its
// digest. The archive is kept in a temporary file, because the digest is sent first.
func uploadArchive(ctx context.Context, api imagebuilderv1.ImageBuilderClient, file string, stdin io.Reader) (_ string, err error) {
	if file == "-" {
		return "", cli.ExitWith(cli.ExitUsage, errors.New("both the context and the Dockerfile are standard input: name the Dockerfile in the archive with -f"))
	}
	archive, err := unzipped(stdin)
	if err != nil {
		return "", cli.ExitWith(cli.ExitUsage, fmt.Errorf("read the context from standard input: %w", err))
	}
	f, err := os.CreateTemp("", "image-builder-context-")
	if err != nil {
		return "", fmt.Errorf("store the context from standard input: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := os.Remove(f.Name()); err != nil { // the open file still exists
		return "", fmt.Errorf("store the context from standard input: %w", err)
	}
	if _, err := io.Copy(f, archive); err != nil {
		return "", cli.ExitWith(cli.ExitUsage, fmt.Errorf("read the context from standard input: %w", err))
	}
	if _, err := tar.NewReader(io.NewSectionReader(f, 0, math.MaxInt64)).Next(); err != nil {
		return "", cli.ExitWith(cli.ExitUsage, fmt.Errorf("the context on standard input is not a tar archive with files: %w; to build a Dockerfile from standard input, use: build DIRECTORY -f -", err))
	}
	return upload(ctx, api, func(w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(f, 0, math.MaxInt64))
		return err
	})
}

// unzipped returns the contents of r, decompressed if they are gzipped.
func unzipped(r io.Reader) (io.Reader, error) {
	b := bufio.NewReader(r)
	if magic, err := b.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return b, nil // the next read of b returns the error
	}
	return gzip.NewReader(b)
}

// retries is how often a call is repeated while the service is unavailable. The pauses are 100 ms at
// first and double each time.
const retries = 5

// withRetries calls f, and again while the service is unavailable.
func withRetries[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	wait := 100 * time.Millisecond
	for try := 0; ; try++ {
		v, err := f(ctx)
		if status.Code(err) != codes.Unavailable || try == retries || !ctxutil.Sleep(ctx, wait) {
			return v, err
		}
		wait *= 2
	}
}

// chunkBytes is the size of one message of an upload, in bytes.
const chunkBytes = 512 << 10

// uploadWriter sends its input in messages of chunkBytes. The last one is sent by flush.
type uploadWriter struct {
	stream imagebuilderv1.ImageBuilder_UploadContextClient
	digest string // empty after the first message, which carries it
	buf    bytes.Buffer
}

// Write buffers p, and sends it when there is enough for a message.
func (w *uploadWriter) Write(p []byte) (int, error) {
	w.buf.Write(p)
	if w.buf.Len() < chunkBytes {
		return len(p), nil
	}
	return len(p), w.flush()
}

// flush sends the buffer, and one message even if nothing was written.
func (w *uploadWriter) flush() error {
	for first := true; first || w.buf.Len() > 0; first = false {
		err := w.stream.Send(&imagebuilderv1.UploadContextRequest{Digest: w.digest, Chunk: w.buf.Next(chunkBytes)})
		if err != nil {
			return err
		}
		w.digest = ""
	}
	return nil
}
