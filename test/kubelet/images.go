//go:build kubernetes

package kubelet

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// Images that every cluster has. Pods must not pull them.
const (
	PauseImage    = "localhost/pause:1"
	WorkerImage   = "localhost/image-builder:1" // this service
	BuildKitImage = "localhost/buildkit:1"      // like moby/buildkit, runs as root
	RootlessImage = "localhost/buildkit-rootless:1"
	BusyboxImage  = "localhost/busybox:1"
)

// importImages makes all images and imports them into containerd.
func (c *Cluster) importImages(ctx context.Context) error {
	shell := newFiles()
	shell.add("bin/busybox", "/bin/busybox")
	shell.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
	for _, l := range []string{"sh", "sleep", "echo", "cat", "true", "false", "wget", "nc", "env", "ls", "dd", "head", "tail", "find", "grep"} {
		shell.link("bin/"+l, "busybox")
	}
	service := newFiles()
	service.add("image-builder", c.Binary)
	service.dir("tmp", 0o1777)
	kit, err := buildkitFiles()
	if err != nil {
		return err
	}
	rootless, err := rootlessFiles()
	if err != nil {
		return err
	}
	if err := c.await(ctx, "containerd responds", func(ctx context.Context) error { return c.ctr(ctx, "version") }); err != nil {
		return err
	}
	for _, i := range []struct {
		name  string
		files *files
		conf  v1.Config
	}{
		{PauseImage, shell, v1.Config{Entrypoint: []string{"/bin/busybox", "sleep", "2147483647"}}},
		{BusyboxImage, shell, v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}}},
		{WorkerImage, service, v1.Config{Entrypoint: []string{"/image-builder"}}},
		{BuildKitImage, kit, v1.Config{Env: []string{"PATH=/usr/bin:/bin", "HOME=/root", "GIT_EXEC_PATH=/usr/lib/git-core"}, Entrypoint: []string{"buildkitd"}}},
		{RootlessImage, rootless, v1.Config{
			User: "1000:1000", Entrypoint: []string{"rootlesskit", "buildkitd"},
			Env: []string{"PATH=/usr/bin:/bin", "HOME=/home/user", "USER=user", "XDG_RUNTIME_DIR=/run/user/1000", "TMPDIR=/home/user/.local/tmp", "BUILDKIT_HOST=unix:///run/user/1000/buildkit/buildkitd.sock", "GIT_EXEC_PATH=/usr/lib/git-core"},
		}},
	} {
		if err := c.importImage(ctx, i.name, i.files, i.conf); err != nil {
			return fmt.Errorf("make the image %s: %w", i.name, err)
		}
	}
	return nil
}

// importImage makes an image with one uncompressed layer, and imports it into containerd.
func (c *Cluster) importImage(ctx context.Context, ref string, f *files, conf v1.Config) error {
	layer, err := f.archive()
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer, types.DockerUncompressedLayer))
	if err != nil {
		return err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", "amd64", conf
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return err
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	out := filepath.Join(c.Dir, strings.ReplaceAll(tag.RepositoryStr(), "/", "-")+".tar")
	if err := tarball.WriteToFile(out, tag, img); err != nil {
		return err
	}
	defer func() { _ = os.Remove(out) }() // on an error, the cleanup of the cluster removes the file
	return c.ctr(ctx, "-n", "k8s.io", "images", "import", out)
}

// ImportProgram makes an image with one static program, which needs no other file, and imports it
// into containerd.
func (c *Cluster) ImportProgram(ctx context.Context, ref, file string) error {
	f := newFiles()
	f.add("bin/"+filepath.Base(file), file)
	f.dir("tmp", 0o1777)
	return c.importImage(ctx, ref, f, v1.Config{Env: []string{"PATH=/bin"}})
}

func (c *Cluster) ctr(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "ctr", append([]string{"-a", socket}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// buildkitFiles returns the files of an image like moby/buildkit: the daemon, runc, and git with
// the programs that it needs to fetch over HTTP.
func buildkitFiles() (*files, error) {
	f := newFiles()
	f.add("usr/bin/buildkitd", buildkitd())
	f.add("bin/busybox", "/bin/busybox")
	for _, l := range []string{"sh", "cat", "find", "grep", "sed", "basename", "dirname", "tr", "cut", "uname", "expr", "rm", "sleep"} {
		f.link("bin/"+l, "busybox")
	}
	for _, p := range []string{"runc", "git"} {
		found, err := exec.LookPath(p)
		if err != nil {
			return nil, err
		}
		f.add("usr/bin/"+p, found)
		if err := f.libraries(found); err != nil {
			return nil, err
		}
	}
	core, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, fmt.Errorf("find git's programs: %w", err)
	}
	for _, p := range []string{"git-remote-http", "git-remote-https", "git-sh-i18n--envsubst"} {
		found := filepath.Join(strings.TrimSpace(string(core)), p)
		f.add("usr/lib/git-core/"+p, found)
		if err := f.libraries(found); err != nil {
			return nil, err
		}
	}
	for _, p := range []string{"git-submodule", "git-sh-setup", "git-sh-i18n"} { // shell scripts
		f.add("usr/lib/git-core/"+p, filepath.Join(strings.TrimSpace(string(core)), p))
	}
	f.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
	f.text("etc/group", "root:x:0:\nuser:x:1000:\n")
	f.dir("tmp", 0o1777)
	f.dir("root", 0o700)
	f.dir("run", 0o755)
	return f, nil
}

// rootlessFiles returns the files of the rootless variant. It also has programs and settings to map
// the range of ids of the user.
func rootlessFiles() (*files, error) {
	f, err := buildkitFiles()
	if err != nil {
		return nil, err
	}
	for _, p := range []string{"rootlesskit", "newuidmap", "newgidmap"} {
		found, err := exec.LookPath(p)
		if err != nil {
			return nil, err
		}
		f.add("usr/bin/"+p, found)
		if err := f.libraries(found); err != nil {
			return nil, err
		}
	}
	// Capabilities, and not the setuid bit: with it the programs would need CAP_SYS_ADMIN, which
	// containers do not have.
	f.caps["usr/bin/newuidmap"], f.caps["usr/bin/newgidmap"] = unix.CAP_SETUID, unix.CAP_SETGID
	f.text("etc/subuid", "user:100000:65536\n")
	f.text("etc/subgid", "user:100000:65536\n")
	for _, d := range []string{"home/user", "home/user/.local", "home/user/.local/tmp", "home/user/.local/share", "home/user/.local/share/buildkit", "run/user/1000"} {
		f.dir(d, 0o700)
		f.owned[d] = 1000
	}
	return f, nil
}

// files are the files of a layer, by path in the image.
type files struct {
	from  map[string]string // files of this machine
	texts map[string]string
	links map[string]string
	dirs  map[string]int64
	caps  map[string]uint // capability of a program
	owned map[string]int  // owner of a folder; root if absent
}

func newFiles() *files {
	return &files{from: map[string]string{}, texts: map[string]string{}, links: map[string]string{}, dirs: map[string]int64{}, caps: map[string]uint{}, owned: map[string]int{}}
}

func (f *files) add(to, from string)         { f.from[to] = from }
func (f *files) text(to, s string)           { f.texts[to] = s }
func (f *files) link(to, target string)      { f.links[to] = target }
func (f *files) dir(name string, mode int64) { f.dirs[name] = mode }

// libraries adds the shared libraries of a program, at the same paths.
func (f *files) libraries(program string) error {
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		if bytes.Contains(out, []byte("not a dynamic executable")) {
			return nil
		}
		return fmt.Errorf("list the libraries of %s: %w: %s", program, err, out)
	}
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			if !strings.HasPrefix(word, "/") {
				continue
			}
			f.add(strings.TrimPrefix(word, "/"), word)
		}
	}
	return nil
}

// archive returns the layer as a tar archive.
func (f *files) archive() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{".": true}
	var errs []error
	var parents func(name string)
	write := func(h *tar.Header, content []byte) {
		parents(path.Dir(h.Name))
		h.Size = int64(len(content))
		errs = append(errs, w.WriteHeader(h))
		_, err := w.Write(content)
		errs = append(errs, err)
	}
	parents = func(dir string) {
		if made[dir] {
			return
		}
		made[dir] = true
		mode, ok := f.dirs[dir]
		if !ok {
			mode = 0o755
		}
		write(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: mode, Uid: f.owned[dir], Gid: f.owned[dir]}, nil)
	}
	for _, d := range sorted(f.dirs) {
		parents(d)
	}
	for _, name := range sorted(f.from) {
		raw, err := os.ReadFile(f.from[name])
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is not installed: run make deps and make buildkitd", f.from[name])
		}
		errs = append(errs, err)
		h := &tar.Header{Name: name, Mode: 0o755}
		if c, ok := f.caps[name]; ok {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability(c)}
		}
		write(h, raw)
	}
	for _, name := range sorted(f.texts) {
		write(&tar.Header{Name: name, Mode: 0o644}, []byte(f.texts[name]))
	}
	for _, name := range sorted(f.links) {
		write(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: f.links[name]}, nil)
	}
	errs = append(errs, w.Close())
	return b.Bytes(), errors.Join(errs...)
}

// capability returns the extended attribute of a program with a permitted and effective capability:
// struct vfs_cap_data of version 2 (linux/capability.h).
func capability(c uint) string {
	const version2, effective = 0x02000000, 1
	b := binary.LittleEndian.AppendUint32(nil, version2|effective)
	b = binary.LittleEndian.AppendUint32(b, 1<<c)
	return string(append(b, make([]byte, 12)...))
}

func sorted[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
