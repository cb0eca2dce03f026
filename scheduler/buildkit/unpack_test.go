package buildkit

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	gofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"

	"github.com/tonistiigi/fsutil"
)

// Test_Unpack_NothingLeavesTheFolder extracts archives that try to write outside of the folder.
func Test_Unpack_NothingLeavesTheFolder(t *testing.T) {
	file := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	link := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	for name, headers := range map[string][]*tar.Header{
		"dots":                   {file("../x")},
		"inner dots":             {file("a/../../x")},
		"absolute":               {file("/x")},
		"through a link":         {link("l", ".."), file("l/x")},
		"through absolute links": {link("l", "/tmp"), file("l/image-builder-escape")},
		"through two links":      {link("a", "b/.."), link("b", ".."), file("a/x")},
		"hard link outside":      {{Typeflag: tar.TypeLink, Name: "h", Linkname: "../outside"}},
		"hard link by a link":    {link("l", ".."), {Typeflag: tar.TypeLink, Name: "h", Linkname: "l/outside"}},
		"device":                 {{Typeflag: tar.TypeChar, Name: "d", Devmajor: 1, Devminor: 3}},
		"pipe":                   {{Typeflag: tar.TypeFifo, Name: "p"}},
	} {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			if err := os.WriteFile(filepath.Join(outer, "outside"), []byte("o"), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(outer, "root")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = root.Close() }()
			var f *workload.Failure
			if _, err := unpack(t.Context(), archive(t, headers...), root, 1000, 100); !errors.As(err, &f) || f.Blame != builds.BlameUser {
				t.Errorf("unpack: %v", err)
			}
			left, err := os.ReadDir(outer)
			if err != nil || len(left) != 2 {
				t.Errorf("beside the folder: %v, %v", left, err)
			}
		})
	}
}

// Test_Unpack_ModesOfFolders checks that this process may read and remove what it has unpacked,
// even if it is not root, and that builds see the modes of the archive.
func Test_Unpack_ModesOfFolders(t *testing.T) {
	const env = "IMAGE_BUILDER_TEST_UNPACK"
	if os.Getenv(env) == "" && os.Geteuid() == 0 {
		dir := t.TempDir()
		for d := dir; d != filepath.Dir(os.TempDir()) && d != "/"; d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), env+"="+dir, "TMPDIR="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
			t.Errorf("as another user: %v\n%s", err, out)
		}
		return
	}
	folder := &tar.Header{Typeflag: tar.TypeDir, Name: "a/d", Mode: 0o555}
	file := &tar.Header{Typeflag: tar.TypeReg, Name: "a/d/f", Mode: 0o000}
	for what, headers := range map[string][]*tar.Header{"folder first": {folder, file}, "file first": {file, folder}} {
		dir, err := os.MkdirTemp(os.Getenv(env), "")
		if err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		modes, err := unpack(t.Context(), archive(t, headers...), root, 1000, 100)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for from, prefix := range map[string]string{dir: "a/", filepath.Join(dir, "a"): ""} {
			plain, err := fsutil.NewFS(from)
			if err != nil {
				t.Fatal(err)
			}
			fs, err := modes.on(plain, dir, from)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]os.FileMode{}
			if err := fs.Walk(t.Context(), "", func(name string, d gofs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := d.Info()
				if err == nil {
					got[name] = info.Mode()
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if got[prefix+"d"] != os.ModeDir|0o555 || got[prefix+"d/f"] != 0 {
				t.Errorf("%s, of %s: modes %v", what, from, got)
			}
			r, err := fs.Open(prefix + "d/f")
			if err != nil {
				t.Errorf("%s: %v", what, err)
				continue
			}
			_ = r.Close()
		}
		_ = root.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A folder that a former version has left.
	dir, err := os.MkdirTemp(os.Getenv(env), "")
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.WriteFile(filepath.Join(dir, "a/b/f"), nil, 0o400),
			os.Chmod(filepath.Join(dir, "a/b"), 0o000), os.Chmod(filepath.Join(dir, "a"), 0o555))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := removeTree(dir); err != nil {
		t.Error(err)
	}
}

// Test_Unpack_CountsImpliedFolders checks that the folders in a name count: one name can imply very
// many.
func Test_Unpack_CountsImpliedFolders(t *testing.T) {
	for what, names := range map[string][]string{
		"too deep":    {strings.Repeat("a/", 5000) + "f"},
		"too long":    {strings.Repeat("a", 5000)},
		"in many":     {"a" + strings.Repeat("/a", 60) + "/f", "b" + strings.Repeat("/a", 60) + "/f"},
		"in a folder": {strings.Repeat("a/", 120) + "f"},
	} {
		dir := t.TempDir()
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		var headers []*tar.Header
		for _, n := range names {
			headers = append(headers, &tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o644, Format: tar.FormatPAX})
		}
		var f *workload.Failure
		if _, err := unpack(t.Context(), archive(t, headers...), root, 1000, 100); !errors.As(err, &f) || f.Blame != builds.BlameUser {
			t.Errorf("%s: %v", what, err)
		}
		_ = root.Close()
		made := 0
		_ = filepath.WalkDir(dir, func(string, os.DirEntry, error) error { made++; return nil })
		if made > 102 {
			t.Errorf("%s: it made %d files and folders", what, made)
		}
	}
}

func Test_Unpack_TheLastMemberOfANameCounts(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	headers := []*tar.Header{
		{Typeflag: tar.TypeSymlink, Name: "x", Linkname: "target"},
		{Typeflag: tar.TypeReg, Name: "target", Mode: 0o600},
		{Typeflag: tar.TypeReg, Name: "./x", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "d", Mode: 0o700},
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755},
	}
	if _, err := unpack(t.Context(), archive(t, headers...), root, 1000, 100); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(filepath.Join(dir, "x"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("x: %v, %v", info, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := unpack(ctx, archive(t), root, 1000, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func archive(t *testing.T, headers ...*tar.Header) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

func Fuzz_Unpack(f *testing.F) {
	f.Add([]byte("not a tar"))
	f.Add([]byte(strings.Repeat("\x00", 1024)))
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "root")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = root.Close() }()
		_, _ = unpack(t.Context(), bytes.NewReader(data), root, 1<<20, 100) // any error is fine
		if left, err := os.ReadDir(outer); err != nil || len(left) != 1 {
			t.Errorf("beside the folder: %v, %v", left, err)
		}
	})
}
