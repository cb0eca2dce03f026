// Package restorefiles keeps the snapshots that restores of the whole cluster need, each under the
// hash of its content. It calls no other node.
package restorefiles

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	"github.com/image-builder-ha/image-builder/faults"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// MaxBytes is the size of the greatest snapshot that can be restored.
const MaxBytes = 4 << 30

const (
	// dirName is the directory of the data directory that holds the snapshots of restores, each
	// in a file whose name is its SHA-256 in hexadecimal.
	dirName = "restore"
	// unfinished is the suffix of a file that is not complete.
	unfinished = ".new"
	// PartBytes is the size of the greatest part in which a snapshot is sent.
	PartBytes = 512 << 10
)

// Files holds the snapshots that commands of the log name, or will name. A file stays as long
// as the log has the command: this node needs it to apply the log again after a restart, and other
// nodes that receive the command from this node fetch the snapshot from it.
type Files struct {
	dir string
	// BeforeWrite is called before each write; nil except in tests.
	BeforeWrite func() error
	syncDir     func(path string) error // datadir.Sync except in tests

	mu    sync.Mutex
	files map[string]*file // by the name of the complete file
}

// file is what this process knows about one file.
type file struct {
	attempt string // the leader's attempt that has put the file last
	index   uint64 // index of the last entry of the log that names the snapshot; 0 if none is known
	pending bool   // a command that names it may come, which is proposed in term or in no term
	term    uint64
	users   int // an attempt of this node uses the file

	verified bool // this process has seen that the content is right
}

// removable reports whether a file is no longer needed. applied is the term of the last applied
// command, first the index of the first entry of the log.
//
// The snapshot of this node contains an entry that is no longer in the log. A command that is not
// in the log yet can no longer be committed once a command of a later term is applied.
func (f file) removable(applied, first uint64) bool {
	return f.users == 0 && (f.index == 0 || first > f.index) && (!f.pending || applied > f.term)
}

// Open opens the snapshots in a data directory and removes incomplete ones.
func Open(dataDir string) (*Files, error) {
	s := &Files{dir: filepath.Join(dataDir, dirName), files: map[string]*file{}, syncDir: datadir.Sync}
	list, err := os.ReadDir(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the snapshots of restores: %w", err)
	}
	for _, e := range list {
		if name, partial := strings.CutSuffix(e.Name(), unfinished); partial {
			if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return nil, fmt.Errorf("remove an incomplete snapshot: %w", err)
			}
		} else {
			s.files[name] = &file{pending: true} // the command may be in no log yet
		}
	}
	// The former process may have ended between the renaming of a file and the sync of its
	// directory.
	if err := errors.Join(datadir.Sync(s.dir), datadir.Sync(dataDir)); err != nil {
		return nil, fmt.Errorf("open the snapshots of restores: %w", err)
	}
	return s, nil
}

// Dir returns the directory of the snapshots.
func (s *Files) Dir() string { return s.dir }

// checkRef returns an error unless ref names a snapshot that can be stored.
func checkRef(ref *clusterv1.SnapshotRef) error {
	if len(ref.GetSha256()) != sha256.Size || ref.GetSize() == 0 || ref.GetSize() > MaxBytes {
		return fmt.Errorf("the snapshot %x of %d bytes has no valid name or size", ref.GetSha256(), ref.GetSize())
	}
	return nil
}

// Name returns the name of the file of a snapshot.
func Name(ref *clusterv1.SnapshotRef) string { return hex.EncodeToString(ref.GetSha256()) }

func (s *Files) path(ref *clusterv1.SnapshotRef) string {
	return filepath.Join(s.dir, Name(ref))
}

// Put stores one part. With the last part it verifies the snapshot, and the file is durable. It
// returns true at any part if the snapshot is complete. Parts of different attempts can follow each
// other, because the name of a snapshot is that of its content.
func (s *Files) Put(ref *clusterv1.SnapshotRef, attempt string, term, offset uint64, part []byte) (complete bool, err error) {
	if err := checkRef(ref); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file(ref).note(attempt, term)
	if s.file(ref).verified {
		if info, err := os.Stat(s.path(ref)); err == nil && info.Size() == int64(ref.GetSize()) {
			return true, nil
		}
	} else if _, err := s.verified(ref); err == nil {
		return true, nil
	}
	if err := s.append(ref, offset, part); err != nil {
		return false, errors.Join(fmt.Errorf("store the snapshot of a restore: %w", err), removeIfExists(s.path(ref)+unfinished))
	}
	if offset+uint64(len(part)) < ref.GetSize() {
		return false, nil
	}
	if err := s.finish(ref); err != nil {
		return false, errors.Join(fmt.Errorf("store the snapshot of a restore: %w", err), removeIfExists(s.path(ref)+unfinished))
	}
	return true, nil
}

// file returns the record of a file, which may not exist yet. The caller holds mu.
func (s *Files) file(ref *clusterv1.SnapshotRef) *file {
	f := s.files[Name(ref)]
	if f == nil {
		f = &file{}
		s.files[Name(ref)] = f
	}
	return f
}

// note records the attempt that has put a file; an empty one if this node has fetched it.
func (f *file) note(attempt string, term uint64) {
	if attempt != "" && attempt != f.attempt {
		f.attempt, f.pending = attempt, true
	}
	f.term = max(f.term, term)
}

func (s *Files) append(ref *clusterv1.SnapshotRef, offset uint64, part []byte) error {
	if len(part) == 0 || offset+uint64(len(part)) > ref.GetSize() {
		return fmt.Errorf("a part of %d bytes at offset %d does not fit into %d bytes", len(part), offset, ref.GetSize())
	}
	err := faults.Disk()
	if err == nil && s.BeforeWrite != nil {
		err = s.BeforeWrite()
	}
	if err != nil {
		return err
	}
	flags := os.O_WRONLY
	if offset == 0 {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return err
		}
		flags |= os.O_CREATE | os.O_TRUNC
	}
	out, err := os.OpenFile(s.path(ref)+unfinished, flags, 0o600)
	if err != nil {
		return err
	}
	info, err := out.Stat()
	if err == nil && info.Size() != int64(offset) {
		err = fmt.Errorf("the part at offset %d does not follow the last one, which ended at %d", offset, info.Size())
	}
	if err == nil {
		_, err = out.WriteAt(part, int64(offset))
	}
	return errors.Join(err, out.Close())
}

// finish verifies a file that has its full size, and makes it durable under its name.
func (s *Files) finish(ref *clusterv1.SnapshotRef) error {
	path := s.path(ref)
	file, err := os.OpenFile(path+unfinished, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.Copy(sum, file)
	if err == nil && !bytes.Equal(sum.Sum(nil), ref.GetSha256()) {
		err = errors.New("its hash does not match")
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+unfinished, path); err != nil {
		return err
	}
	if err := errors.Join(s.syncDir(s.dir), s.syncDir(filepath.Dir(s.dir))); err != nil {
		return errors.Join(err, os.Remove(path)) // a file with its final name counts as durable
	}
	s.file(ref).verified = true
	return nil
}

// Read returns a snapshot that is complete and whose hash matches. It returns an error that wraps
// os.ErrNotExist if there is none. It removes a file that is damaged.
func (s *Files) Read(ref *clusterv1.SnapshotRef) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.verified(ref)
}

// verified is read. The caller holds mu.
func (s *Files) verified(ref *clusterv1.SnapshotRef) ([]byte, error) {
	raw, err := os.ReadFile(s.path(ref))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(raw); !bytes.Equal(sum[:], ref.GetSha256()) {
		if err := os.Remove(s.path(ref)); err != nil {
			return nil, err
		}
		s.file(ref).verified = false
		return nil, fmt.Errorf("the file %s was damaged and is removed: %w", s.path(ref), os.ErrNotExist)
	}
	s.file(ref).verified = true
	return raw, nil
}

// Part returns the part of a complete snapshot at an offset; nothing at its end.
func (s *Files) Part(ref *clusterv1.SnapshotRef, offset uint64) ([]byte, error) {
	if err := checkRef(ref); err != nil {
		return nil, err
	}
	file, err := os.Open(s.path(ref))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b := make([]byte, PartBytes)
	n, err := file.ReadAt(b, int64(offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

// Drop removes a snapshot that an attempt has put, unless an entry of the log names it or another
// attempt has put it since.
func (s *Files) Drop(ref *clusterv1.SnapshotRef, attempt string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[Name(ref)]
	if f == nil || f.index > 0 || f.attempt != attempt {
		return nil
	}
	return s.remove(Name(ref))
}

// remove removes a file. The caller holds mu.
func (s *Files) remove(name string) error {
	delete(s.files, name)
	return errors.Join(removeIfExists(filepath.Join(s.dir, name)), removeIfExists(filepath.Join(s.dir, name+unfinished)))
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Named records that the entry of the log at index names a snapshot.
func (s *Files) Named(ref *clusterv1.SnapshotRef, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.file(ref)
	f.index, f.pending = max(f.index, index), false
}

// Use keeps a snapshot until the returned function is called.
func (s *Files) Use(ref *clusterv1.SnapshotRef) (release func()) {
	count := func(d int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.file(ref).users += d
	}
	count(1)
	return func() { count(-1) }
}

// Clean removes the files that are no longer needed. See removable.
func (s *Files) Clean(applied, first uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name, f := range s.files {
		if f.removable(applied, first) {
			errs = append(errs, s.remove(name))
		}
	}
	return errors.Join(errs...)
}

// Empty reports whether there is no file.
func (s *Files) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files) == 0
}

// StartAt sets the term of all files to that of a node that starts.
func (s *Files) StartAt(term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		f.term = max(f.term, term)
	}
}
