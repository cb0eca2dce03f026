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
	"github.com/tonistiigi/fsutil/types"
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
	defer func() { _ = archive.Close() }() // read to its end, or the error is returned already
	src, err := r.openFolder(l, func(root *os.Root) (modes, error) {
		return unpack(ctx, archive, root, r.opts.ContextBytes, r.opts.ContextFiles)
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(digest + "\x00" + l.dir))
	src.sharedKey = hex.EncodeToString(sum[:])
	return src, nil
}

// contextPrefix is the prefix of the names of the folders that hold contexts.
const contextPrefix = "build-context-"

// removeTree removes a folder. It also removes read-only folders in it, which former versions
// unpacked.
func removeTree(dir string) error {
	if err := os.RemoveAll(dir); !errors.Is(err, os.ErrPermission) {
		return err
	}
	// WalkDir calls the function for a folder before it reads it.
	_ = filepath.WalkDir(dir, func(name string, d os.DirEntry, _ error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(name, 0o700) // RemoveAll reports what is left
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// clearContexts removes the contexts that a former process left in dir. It creates dir if it is
// missing.
func clearContexts(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("buildkit: make the folder of build contexts: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, contextPrefix+"*"))
	if err != nil {
		return fmt.Errorf("buildkit: list the build contexts in %s: %w", dir, err)
	}
	for _, l := range left {
		err = errors.Join(err, removeTree(l))
	}
	if err != nil {
		return fmt.Errorf("buildkit: remove build contexts that a former process left: %w", err)
	}
	return nil
}

// openFolder creates a folder, lets fill write a context into it, and opens that context.
func (r *Runtime) openFolder(l layout, fill func(*os.Root) (modes, error)) (_ *source, err error) {
	dir, err := os.MkdirTemp(r.opts.TempDir, contextPrefix)
	if err != nil {
		return nil, infrastructureFailure(fmt.Errorf("make a folder for the build context: %w", err))
	}
	remove := func() error { return removeTree(dir) }
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
	modes, err := fill(root)
	if err != nil {
		return nil, err
	}
	df, err := localDockerfile(root, l)
	if err != nil {
		return nil, err
	}
	// The path may contain symbolic links. root.Stat refuses one that leaves the root, so that
	// EvalSymlinks below stays inside.
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
	if len(modes) > 0 {
		if fs, err = modes.on(fs, dir, real); err != nil {
			return nil, infrastructureFailure(fmt.Errorf("open the folder of the build context: %w", err))
		}
	}
	sum := sha256.Sum256(df.data)
	return &source{
		key:        "dockerfile " + hex.EncodeToString(sum[:]),
		mounts:     map[string]fsutil.FS{dockerui.DefaultLocalNameContext: fs},
		dockerfile: func(context.Context, gateway.Client) (dockerfile, error) { return df, nil },
		close:      remove,
	}, nil
}

// on returns fs, a view of folder below root, with the modes of the archive.
func (m modes) on(fs fsutil.FS, root, folder string) (fsutil.FS, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	prefix, err := filepath.Rel(root, folder)
	if err != nil {
		return nil, err
	}
	return fsutil.NewFilterFS(fs, &fsutil.FilterOpt{Map: func(name string, stat *types.Stat) fsutil.MapResult {
		if mode, ok := m[path.Join(filepath.ToSlash(prefix), filepath.ToSlash(name))]; ok {
			stat.Mode = uint32(mode)
		}
		return fsutil.MapResultKeep
	}})
}

// localDockerfile reads the Dockerfile, and its ignore file if there is one, from an unpacked
// context.
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
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxDockerfile+1))
	if err == nil && len(data) > maxDockerfile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxDockerfile)
	}
	return data, err
}
