package buildkit

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// modes holds the original modes of the members that this process, unless it is root, could not
// read or remove with these modes. On disk these members have more permissions. Names are relative
// to the root.
type modes map[string]os.FileMode

// unpack extracts a tar archive into root, and nothing outside of it. It keeps the modes and times
// of files, but not the owners. It returns the modes that it had to extend on disk. Its memory is
// bounded for every archive. Errors are *workload.Failure: the user is to blame for a malformed or
// too large archive.
func unpack(ctx context.Context, archive io.Reader, root *os.Root, maxBytes int64, maxFiles int) (modes, error) {
	u := &unpacking{root: root, left: maxBytes, maxBytes: maxBytes, maxFiles: maxFiles, modes: modes{}}
	return u.modes, u.run(ctx, archive)
}

func (u *unpacking) run(ctx context.Context, archive io.Reader) error {
	tr := tar.NewReader(readerWithContext{ctx, archive})
	for ; ; u.files++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return userFailure(fmt.Errorf("the build context is not a tar archive that can be read: %w", err))
		}
		if u.files >= u.maxFiles {
			return u.failure(h.Name, errTooMany)
		}
		if err := u.entry(h, tr); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
}

// unpacking is the state of one extraction.
type unpacking struct {
	root            *os.Root
	left, maxBytes  int64
	files, maxFiles int // including folders that are only implied
	modes           modes
}

// entry extracts one member of the archive.
func (u *unpacking) entry(h *tar.Header, content io.Reader) error {
	name, err := memberPath(h.Name)
	if err != nil {
		return userFailure(err)
	}
	if name == "." || h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if err := u.folder(path.Dir(name)); err != nil {
		return u.failure(h.Name, err)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		err = u.root.MkdirAll(name, 0o755)
	case tar.TypeReg:
		err = u.file(name, content)
	case tar.TypeSymlink:
		err = errors.Join(u.clear(name), u.root.Symlink(h.Linkname, name))
		if err == nil {
			return nil
		}
	case tar.TypeLink:
		target, perr := memberPath(h.Linkname)
		if perr != nil {
			return userFailure(perr)
		}
		if err = errors.Join(u.clear(name), u.root.Link(target, name)); err == nil {
			return nil
		}
	default:
		return userFailure(fmt.Errorf("the build context holds %q, which is neither a file, a folder nor a link", h.Name))
	}
	if err != nil {
		return u.failure(h.Name, err)
	}
	mode := h.FileInfo().Mode()
	least := os.FileMode(0o400)
	if mode.IsDir() {
		least = 0o700
	}
	if delete(u.modes, name); mode&least != least {
		u.modes[name] = mode
	}
	if err := u.root.Chmod(name, mode|least); err != nil {
		return u.failure(h.Name, err)
	}
	if err := u.root.Chtimes(name, h.ModTime, h.ModTime); err != nil {
		return u.failure(h.Name, err)
	}
	return nil
}

// folder creates a folder and its parents. Each new one counts as a file.
func (u *unpacking) folder(name string) error {
	for dir := name; dir != "."; dir = path.Dir(dir) {
		if _, err := u.root.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			break
		}
		if u.files++; u.files >= u.maxFiles {
			return errTooMany
		}
	}
	return u.root.MkdirAll(name, 0o755)
}

// file writes the content of a file, up to the rest of the size limit.
func (u *unpacking) file(name string, content io.Reader) error {
	if err := u.clear(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(content, u.left+1))
	if u.left -= n; u.left < 0 && err == nil {
		err = errTooLarge
	}
	return errors.Join(err, f.Close())
}

// clear removes the former file if a member occurs twice: the last one wins.
func (u *unpacking) clear(name string) error {
	if err := u.root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

var (
	errTooLarge = errors.New("the build context is too large")
	errTooMany  = errors.New("the build context has too many files")
)

// failure distinguishes an archive that cannot be extracted from a disk that cannot store it.
func (u *unpacking) failure(name string, err error) error {
	switch {
	case errors.Is(err, errTooLarge):
		return userFailure(fmt.Errorf("the build context is larger than %d bytes when unpacked: exclude files by a .dockerignore file", u.maxBytes))
	case errors.Is(err, errTooMany):
		return userFailure(fmt.Errorf("the build context has more than %d files and folders: exclude some by a .dockerignore file", u.maxFiles))
	case diskFull(err), errors.Is(err, os.ErrPermission):
		return infrastructureFailure(fmt.Errorf("unpack the build context: %w", err))
	}
	return userFailure(fmt.Errorf("the build context cannot be unpacked at %q: %w", name, err))
}

// Limits of the name of a member: no program could open a file with a longer name (PATH_MAX of
// Linux).
const (
	maxName  = 4096
	maxDepth = 255
)

// memberPath cleans the name of a member. It returns an error if the name is too long or leaves the
// root.
func memberPath(name string) (string, error) {
	if strings.ContainsRune(name, 0) || path.IsAbs(name) {
		return "", fmt.Errorf("the build context holds %q, which is not a relative path", name)
	}
	if len(name) > maxName || strings.Count(name, "/") > maxDepth {
		return "", fmt.Errorf("the build context holds a name that begins with %q, which is longer than %d bytes or deeper than %d folders", name[:min(len(name), 64)], maxName, maxDepth)
	}
	clean := path.Clean(name)
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("the build context holds %q, which leaves it", name)
	}
	return clean, nil
}

// readerWithContext is a reader that fails once ctx has ended.
type readerWithContext struct {
	ctx context.Context
	r   io.Reader
}

func (r readerWithContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
