package request

import (
	"archive/tar"
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

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
)

// stdinDockerfile is the name in the context of a Dockerfile that is not in the directory.
const stdinDockerfile = ".dockerfile.stdin"

// buildContext is a directory without the files that .dockerignore excludes.
type buildContext struct {
	dir        string
	dockerfile string // path in the context
	content    []byte // of the Dockerfile, which may be outside of the directory
	ignore     *patternmatcher.PatternMatcher
}

// openContext reads the Dockerfile and .dockerignore of a directory. file is the value of --file: a
// path, "-" for standard input, or "" for the Dockerfile of the directory.
func openContext(dir, file string, stdin io.Reader) (*buildContext, error) {
	c := &buildContext{dir: dir, dockerfile: "Dockerfile"}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		if err != nil && (strings.HasPrefix(dir, "ssh://") || strings.Contains(dir, "@") && strings.Contains(dir, ":")) {
			return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("the context %q is not a directory, and git repositories are fetched over https and http only: use the https URL, and --secret id=GIT_AUTH_TOKEN,env=NAME if the repository needs a credential", dir))
		}
		return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("the context %q is not a directory", dir))
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
			return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("read %s: %w", name, err))
		}
		break
	}
	var err error
	if c.ignore, err = patternmatcher.New(patterns); err != nil {
		return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf(".dockerignore: %w", err))
	}
	return c, nil
}

// findDockerfile reads the Dockerfile and sets its path in the context.
func (c *buildContext) findDockerfile(file string, stdin io.Reader) (err error) {
	path := filepath.Join(c.dir, "Dockerfile")
	switch {
	case file == "-":
		c.dockerfile = stdinDockerfile
		if c.content, err = io.ReadAll(io.LimitReader(stdin, 1<<20)); err != nil {
			return cli.ExitWith(cli.ExitUsage, fmt.Errorf("read the Dockerfile from standard input: %w", err))
		}
		return nil
	case file != "":
		path = file
	}
	abs, err1 := filepath.Abs(path)
	dir, err2 := filepath.Abs(c.dir)
	rel, err3 := filepath.Rel(dir, abs)
	if err := errors.Join(err1, err2, err3); err != nil {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("find the Dockerfile: %w", err))
	}
	if c.content, err = os.ReadFile(path); err != nil {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("read the Dockerfile: %w; name another one with -f", err))
	}
	if filepath.IsLocal(rel) {
		c.dockerfile = filepath.ToSlash(rel) // in the directory, even if it is ignored there
	} else {
		c.dockerfile = stdinDockerfile
	}
	return nil
}

// write writes the context as a tar archive without times and owners, so that its digest depends on
// the contents only.
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

// add writes one file, directory or link to the archive. It leaves out sockets and devices.
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
		return nil
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
		return fmt.Errorf("%s changed while it was being read: %w", name, err)
	}
	return nil
}
