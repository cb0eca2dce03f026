package restorefiles

import (
	"crypto/sha256"
	"errors"
	"os"
	"testing"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_RestoreFiles_Removable checks when a snapshot of a restore is no longer needed.
func Test_RestoreFiles_Removable(t *testing.T) {
	for _, c := range []struct {
		name           string
		file           file
		applied, first uint64
		want           bool
	}{
		{"the log has the command", file{index: 10, term: 2}, 5, 10, false},
		{"the log no longer has it", file{index: 10, term: 2}, 2, 11, true},
		{"the command may still come", file{pending: true, term: 2}, 2, 1, false},
		{"a later term has begun", file{pending: true, term: 2}, 3, 1, true},
		{"a second command may come", file{index: 10, pending: true, term: 2}, 2, 11, false},
		{"a second command cannot come, the log has the first", file{index: 10, pending: true, term: 2}, 3, 10, false},
		{"an attempt uses it", file{users: 1, term: 2}, 3, 1, false},
		{"the log is empty", file{index: 10}, 3, 0, false},
	} {
		if got := c.file.removable(c.applied, c.first); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// Test_RestoreFiles_Parts stores snapshots in parts, some of which are wrong.
func Test_RestoreFiles_Parts(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("0123456789")
	sum := sha256.Sum256(content)
	ref := &clusterv1.SnapshotRef{Sha256: sum[:], Size: 10}
	put := func(offset uint64, part string) (bool, error) { return s.Put(ref, "a", 1, offset, []byte(part)) }
	for _, c := range []struct {
		name   string
		offset uint64
		part   string
	}{
		{"no beginning", 4, "4567"}, {"an empty part", 0, ""}, {"too long", 0, "0123456789x"}, {"another content", 0, "x123456789"},
	} {
		if complete, err := put(c.offset, c.part); err == nil || complete {
			t.Errorf("%s: %v, %v", c.name, complete, err)
		}
	}
	if _, err := s.Put(&clusterv1.SnapshotRef{Sha256: sum[:], Size: MaxBytes + 1}, "a", 1, 0, content); err == nil {
		t.Error("a snapshot above the limit is accepted")
	}
	if complete, err := put(0, "0123"); complete || err != nil {
		t.Fatal(complete, err)
	}
	if _, err := s.Read(ref); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an incomplete snapshot is read: %v", err)
	}
	if complete, err := put(4, "456789"); !complete || err != nil {
		t.Fatal(complete, err)
	}
	if err := s.Drop(ref, "b"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(ref); err != nil || string(got) != string(content) {
		t.Fatalf("%q, %v", got, err)
	}
	if err := os.WriteFile(s.path(ref), []byte("damaged!!!"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(ref); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a damaged snapshot is read: %v", err)
	}
	if complete, err := put(0, string(content)); !complete || err != nil {
		t.Fatal(complete, err)
	}
	if err := s.Drop(ref, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.path(ref)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dropped snapshot is still there: %v", err)
	}
}

// Test_RestoreFiles_OnlyWhatIsDurable checks that a snapshot counts as stored only if its content is
// right and its name is durable.
func Test_RestoreFiles_OnlyWhatIsDurable(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("0123456789")
	sum := sha256.Sum256(content)
	ref := &clusterv1.SnapshotRef{Sha256: sum[:], Size: 10}
	put := func() (bool, error) { return s.Put(ref, "a", 1, 0, content) }
	s.syncDir = func(string) error { return errors.New("the disk fails") }
	for range 2 {
		if complete, err := put(); complete || err == nil {
			t.Fatalf("the name is not durable: %v, %v", complete, err)
		}
	}
	s.syncDir = datadir.Sync
	if complete, err := put(); !complete || err != nil {
		t.Fatal(complete, err)
	}
	if err := os.WriteFile(s.path(ref), []byte("damaged!!!"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	if complete, err := s.Put(ref, "a", 1, 0, content[:5]); complete || err != nil {
		t.Errorf("the first part, while there is a damaged file: %v, %v", complete, err)
	}
	if complete, err := s.Put(ref, "a", 1, 5, content[5:]); !complete || err != nil {
		t.Errorf("the last part: %v, %v", complete, err)
	}
}
