package logs_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// Test_Reserve writes files on a disk with a reserve that is free, and with one that is not.
func Test_Reserve(t *testing.T) {
	for name, c := range map[string]struct {
		reserve uint64
		want    error
	}{
		"free":     {reserve: 1},
		"not free": {reserve: 1 << 62, want: syscall.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, text := filepath.Join(dir, "f"), []byte("output")
			f, err := logs.WithReserve(logs.Disk(), dir, c.reserve).OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			if _, err := f.WriteAt(text, 0); !errors.Is(err, c.want) {
				t.Fatalf("a write with a reserve of %d bytes: %v, want %v", c.reserve, err, c.want)
			}
			written := make([]byte, len(text))
			if _, err := f.ReadAt(written, 0); c.want == nil && (err != nil || !bytes.Equal(written, text)) {
				t.Errorf("the file has %q (%v)", written, err)
			}
		})
	}
}

// Test_Reserve_OfAStore opens a store whose disk has nothing but the reserve. Output must be refused
// as on a full disk, and Trouble must say so.
func Test_Reserve_OfAStore(t *testing.T) {
	dir := t.TempDir()
	s, err := logs.Open(logs.Options{Dir: dir, FS: logs.WithReserve(logs.Disk(), dir, 1<<62)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.Probe()
	if err := s.Trouble(); !errors.Is(err, logs.ErrNoSpace) {
		t.Errorf("the health problem of a store without room: %v", err)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) > 0 {
		t.Errorf("the attempt has left %v (%v)", names, err)
	}
}
