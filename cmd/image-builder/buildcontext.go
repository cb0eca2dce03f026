package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// stdinDockerfile is the name under which a Dockerfile from standard input
// goes into the context.
const stdinDockerfile = ".dockerfile.stdin"

// buildContext is a directory to send, as .dockerignore leaves it.
type buildContext struct {
	dir        string
	dockerfile string // path within the context
	content    []byte // of a Dockerfile that is not in the directory
	ignore     *patternmatcher.PatternMatcher
}

// openContext reads what is ignored. file is the Dockerfile as given on the
// command line: "-" for standard input, else a path.
func openContext(dir, file string, stdin io.Reader) (*buildContext, error) {
	c := &buildContext{dir: dir, dockerfile: "Dockerfile"}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return nil, exitError{exitUsage, fmt.Errorf("the context %q is no directory", dir)}
	}
	if err := c.findDockerfile(file, stdin); err != nil {
		return nil, err
	}
	var patterns []string
	for _, name := range []string{filepath.Join(dir, c.dockerfile) + ".dockerignore", filepath.Join(dir, ".dockerignore")} {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		patterns, err = ignorefile.ReadAll(f)
		_ = f.Close()
		if err != nil {
			return nil, exitError{exitUsage, fmt.Errorf("read %s: %w", name, err)}
		}
		break
	}
	var err error
	if c.ignore, err = patternmatcher.New(patterns); err != nil {
		return nil, exitError{exitUsage, fmt.Errorf(".dockerignore: %w", err)}
	}
	return c, nil
}

func (c *buildContext) findDockerfile(file string, stdin io.Reader) (err error) {
	path := filepath.Join(c.dir, "Dockerfile")
	switch {
	case file == "-":
		c.dockerfile = stdinDockerfile
		if c.content, err = io.ReadAll(io.LimitReader(stdin, 1<<20)); err != nil {
			return exitError{exitUsage, fmt.Errorf("read the Dockerfile from standard input: %w", err)}
		}
		return nil
	case file != "":
		path = file
	}
	abs, err1 := filepath.Abs(path)
	dir, err2 := filepath.Abs(c.dir)
	rel, err3 := filepath.Rel(dir, abs)
	if err := errors.Join(err1, err2, err3); err != nil {
		return exitError{exitUsage, fmt.Errorf("find the Dockerfile: %w", err)}
	}
	if c.content, err = os.ReadFile(path); err != nil {
		return exitError{exitUsage, fmt.Errorf("the Dockerfile cannot be read: %w; name another with -f", err)}
	}
	if filepath.IsLocal(rel) {
		// It goes with the directory, unless it is ignored there.
		c.dockerfile = filepath.ToSlash(rel)
	} else {
		c.dockerfile = stdinDockerfile
	}
	return nil
}

// write writes the context as a tar archive that depends on its content only:
// no times, no owners.
func (c *buildContext) write(w io.Writer) error {
	t := tar.NewWriter(w)
	sent := map[string]bool{}
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(c.dir, path)
		if err != nil || rel == "." {
			return err
		}
		name := filepath.ToSlash(rel)
		ignored, err := c.ignore.MatchesOrParentMatches(name)
		if err != nil {
			return err
		}
		if ignored && name != c.dockerfile {
			if d.IsDir() && !c.ignore.Exclusions() && !strings.HasPrefix(c.dockerfile, name+"/") {
				return fs.SkipDir
			}
			if !d.IsDir() {
				return nil
			}
		}
		sent[name] = true
		return c.add(t, path, name, d)
	})
	if err == nil && !sent[c.dockerfile] {
		err = errors.Join(t.WriteHeader(&tar.Header{Name: c.dockerfile, Mode: 0o644, Size: int64(len(c.content)), ModTime: time.Unix(0, 0)}),
			func() error { _, err := t.Write(c.content); return err }())
	}
	return errors.Join(err, t.Close())
}

func (c *buildContext) add(t *tar.Writer, path, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), ModTime: time.Unix(0, 0)}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return t.WriteHeader(h)
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
		return t.WriteHeader(h)
	case !info.Mode().IsRegular():
		return nil // sockets and devices have no place in a context
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.CopyN(t, f, h.Size); err != nil {
		return fmt.Errorf("%s changed while it was read: %w", name, err)
	}
	return nil
}

// upload sends the context, unless the service has it, and answers its digest.
// It reads the directory twice: once for the digest, once to send.
func (c *buildContext) upload(ctx context.Context, client imagebuilderv1.ImageBuilderClient) (string, error) {
	sum := sha256.New()
	if err := c.write(sum); err != nil {
		return "", exitError{exitUsage, fmt.Errorf("read the context: %w", err)}
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
		if err := c.write(w); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err := w.flush(); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return stream.CloseAndRecv() // also why a Send failed with EOF
	})
	return digest, err
}

// again calls f again while the service is unavailable, for a while.
func again[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	wait := 100 * time.Millisecond
	for try := 0; ; try++ {
		v, err := f(ctx)
		if status.Code(err) != codes.Unavailable || try == 5 || !pause(ctx, wait) {
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
