package buildkit

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/scheduler"
)

// Test_Unpack_NothingLeavesTheFolder extracts archives that try to write
// outside.
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
			var f *scheduler.Failure
			if err := unpack(t.Context(), archive(t, headers...), root, 1000, 100); !errors.As(err, &f) || f.Blame != builds.BlameUser {
				t.Errorf("unpack: %v", err)
			}
			left, err := os.ReadDir(outer)
			if err != nil || len(left) != 2 {
				t.Errorf("beside the folder: %v, %v", left, err)
			}
		})
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
	if err := unpack(t.Context(), archive(t, headers...), root, 1000, 100); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(filepath.Join(dir, "x"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("x: %v, %v", info, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := unpack(ctx, archive(t), root, 1000, 100); !errors.Is(err, context.Canceled) {
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
		_ = unpack(t.Context(), bytes.NewReader(data), root, 1<<20, 100) // any error will do
		if left, err := os.ReadDir(outer); err != nil || len(left) != 1 {
			t.Errorf("beside the folder: %v, %v", left, err)
		}
	})
}
