package buildkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/moby/buildkit/frontend/dockerui"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/tonistiigi/fsutil"
)

// openUpload unpacks an uploaded context into a folder of its own.
func (r *Runtime) openUpload(ctx context.Context, digest string, l layout) (*source, error) {
	if r.opts.Contexts == nil {
		return nil, infrastructureFailure(errors.New("this node has no store for uploaded build contexts"))
	}
	archive, err := r.opts.Contexts.Open(ctx, digest)
	if err != nil {
		return nil, infrastructureFailure(fmt.Errorf("open the uploaded build context %s: %w", digest, err))
	}
	defer func() { _ = archive.Close() }() // it was read, or failed already
	src, err := r.openFolder(l, func(root *os.Root) error {
		return unpack(ctx, archive, root, r.opts.ContextBytes, r.opts.ContextFiles)
	})
	if err != nil {
		return nil, err
	}
	src.sharedKey = digest
	return src, nil
}

// contextPrefix begins the names of the folders of contexts.
const contextPrefix = "build-context-"

// clearContexts removes the contexts that a former process left in its folder.
func clearContexts(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("buildkit: make the folder of build contexts: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, contextPrefix+"*"))
	if err != nil {
		return fmt.Errorf("buildkit: look for build contexts in %s: %w", dir, err)
	}
	for _, l := range left {
		err = errors.Join(err, os.RemoveAll(l))
	}
	if err != nil {
		return fmt.Errorf("buildkit: remove build contexts that a former process left: %w", err)
	}
	return nil
}

// openFolder makes a context of what fill puts into a new folder.
func (r *Runtime) openFolder(l layout, fill func(*os.Root) error) (_ *source, err error) {
	dir, err := os.MkdirTemp(r.opts.TempDir, contextPrefix)
	if err != nil {
		return nil, infrastructureFailure(fmt.Errorf("make a folder for the build context: %w", err))
	}
	remove := func() error { return os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, infrastructureFailure(fmt.Errorf("open the folder of the build context: %w", err))
	}
	defer func() { _ = root.Close() }() // nothing is buffered
	if err := fill(root); err != nil {
		return nil, err
	}
	df, err := localDockerfile(root, l)
	if err != nil {
		return nil, err
	}
	// The folder may be named by way of a link: a root refuses one that leaves.
	info, err := root.Stat(l.dir)
	if err != nil || !info.IsDir() {
		return nil, userFailure(fmt.Errorf("the build context has no folder %q", l.dir))
	}
	real, err := filepath.EvalSymlinks(filepath.Join(dir, l.dir))
	if err != nil {
		return nil, infrastructureFailure(fmt.Errorf("open the folder of the build context: %w", err))
	}
	fs, err := fsutil.NewFS(real)
	if err != nil {
		return nil, infrastructureFailure(fmt.Errorf("open the folder of the build context: %w", err))
	}
	sum := sha256.Sum256(df.data)
	return &source{
		key:        "dockerfile " + hex.EncodeToString(sum[:]),
		mounts:     map[string]fsutil.FS{dockerui.DefaultLocalNameContext: fs},
		dockerfile: func(context.Context, gateway.Client) (dockerfile, error) { return df, nil },
		close:      remove,
	}, nil
}

// localDockerfile reads the Dockerfile from an unpacked context.
func localDockerfile(root *os.Root, l layout) (dockerfile, error) {
	var errs []error
	for _, file := range l.dockerfiles {
		data, err := readLimited(root, file)
		if err != nil && path.Base(file) == "Dockerfile" {
			data, err = readLimited(root, path.Join(path.Dir(file), "dockerfile"))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ignore, err := readLimited(root, file+".dockerignore")
		if err != nil {
			ignore = nil
		}
		return dockerfile{path: file, data: data, ignore: ignore}, nil
	}
	return dockerfile{}, noDockerfile(l, errors.Join(errs...))
}

func readLimited(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err == nil && len(data) > maxDockerfile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxDockerfile)
	}
	return data, err
}
