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

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// upload sends what write writes, unless the service has it, and answers its
// digest. It calls write twice, for the digest and to send, and again when the
// service was away; it has to write the same each time.
func upload(ctx context.Context, client imagebuilderv1.ImageBuilderClient, write func(io.Writer) error) (string, error) {
	sum := sha256.New()
	if err := write(sum); err != nil {
		return "", cli.ExitWith(cli.ExitUsage, fmt.Errorf("read the context: %w", err))
	}
	digest := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	_, err := again(ctx, func(ctx context.Context) (*imagebuilderv1.UploadContextResponse, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := client.UploadContext(ctx)
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
		return stream.CloseAndRecv() // also why a Send failed with EOF
	})
	return digest, err
}

// uploadArchive sends a tar archive from standard input, as it is but for its
// compression. It is kept in a temporary file meanwhile: the digest goes first.
func uploadArchive(ctx context.Context, client imagebuilderv1.ImageBuilderClient, file string, stdin io.Reader) (_ string, err error) {
	if file == "-" {
		return "", cli.ExitWith(cli.ExitUsage, errors.New("both the context and the Dockerfile would come from standard input: name the Dockerfile in the archive with -f"))
	}
	archive, err := unzipped(stdin)
	if err != nil {
		return "", cli.ExitWith(cli.ExitUsage, fmt.Errorf("read the context from standard input: %w", err))
	}
	f, err := os.CreateTemp("", "image-builder-context-")
	if err != nil {
		return "", fmt.Errorf("keep the context from standard input: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := os.Remove(f.Name()); err != nil { // open files outlive their names
		return "", fmt.Errorf("keep the context from standard input: %w", err)
	}
	if _, err := io.Copy(f, archive); err != nil {
		return "", cli.ExitWith(cli.ExitUsage, fmt.Errorf("read the context from standard input: %w", err))
	}
	if _, err := tar.NewReader(io.NewSectionReader(f, 0, math.MaxInt64)).Next(); err != nil {
		return "", cli.ExitWith(cli.ExitUsage, fmt.Errorf("the context on standard input is no tar archive with files: %w; a Dockerfile alone goes by: build DIRECTORY -f -", err))
	}
	return upload(ctx, client, func(w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(f, 0, math.MaxInt64))
		return err
	})
}

// unzipped answers what r holds, without gzip if there is any.
func unzipped(r io.Reader) (io.Reader, error) {
	b := bufio.NewReader(r)
	if magic, err := b.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return b, nil // whatever it is, its reader says
	}
	return gzip.NewReader(b)
}

// again calls f again while the service is unavailable, for a while.
func again[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	wait := 100 * time.Millisecond
	for try := 0; ; try++ {
		v, err := f(ctx)
		if status.Code(err) != codes.Unavailable || try == 5 || !ctxutil.Sleep(ctx, wait) {
			return v, err
		}
		wait *= 2
	}
}

// uploadWriter gathers what is written into messages.
type uploadWriter struct {
	stream imagebuilderv1.ImageBuilder_UploadContextClient
	digest string // until the first message was sent
	buf    bytes.Buffer
}

func (w *uploadWriter) Write(p []byte) (int, error) {
	w.buf.Write(p)
	if w.buf.Len() < 512<<10 {
		return len(p), nil
	}
	return len(p), w.flush()
}

func (w *uploadWriter) flush() error {
	for first := true; first || w.buf.Len() > 0; first = false {
		err := w.stream.Send(&imagebuilderv1.UploadContextRequest{Digest: w.digest, Chunk: w.buf.Next(512 << 10)})
		if err != nil {
			return err
		}
		w.digest = ""
	}
	return nil
}
