package raftlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/image-builder-ha/image-builder/faults"
)

// walFiles holds the segments of raft-wal and the list of them. raft-wal commits a list that names
// a new segment before it creates the file. If it cannot create the file, its memory and its disk
// differ from then on, and no later write succeeds. walFiles creates the file first. So a change
// either happens as a whole, or it leaves memory and disk as they were.
//
// The list stays open while the log is opened again: Raft's term and vote are in the same database.
type walFiles struct {
	types.VFS
	types.MetaStore
	dir string

	rotation rotation

	mu    sync.Mutex
	state types.PersistentState // the durable list
	// prepared holds the files that were created for a list and that raft-wal did not ask for yet.
	prepared map[string]types.WritableFile
	// uncertain means that a list may or may not be durable, and that the former one cannot be
	// written either.
	uncertain bool

	// uncleared is the end of the zeros that repair has written to a segment and that may not be
	// durable. Only repair uses it, one call at a time.
	uncleared struct {
		name string
		to   int64
	}
}

func newWALFiles(dir string, vfs types.VFS, meta types.MetaStore) *walFiles {
	return &walFiles{VFS: vfs, MetaStore: meta, dir: dir, prepared: map[string]types.WritableFile{}}
}

// Load returns the durable list of segments.
func (f *walFiles) Load(dir string) (types.PersistentState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.MetaStore.Load(dir)
	if err == nil {
		f.state = cloneState(s)
	}
	return s, err
}

// CommitState creates the file of a new tail and makes the list durable. If it returns an error,
// the former list is in force, unless f.uncertain is set.
func (f *walFiles) CommitState(next types.PersistentState) (err error) {
	defer func() {
		if err != nil {
			f.rotation.end()
		}
	}()
	f.mu.Lock()
	defer f.mu.Unlock()
	var created string
	if t, ok := openTail(next); ok && !lists(f.state, t.ID) && !faults.Mutant("list-before-file") {
		created = segment.FileName(t)
		w, err := f.create(created, uint64(t.SizeLimit))
		if err != nil {
			return fmt.Errorf("create the next file of the log: %w", err)
		}
		f.prepared[created] = w
	}
	err = f.MetaStore.CommitState(next)
	if err == nil {
		f.state, f.uncertain = cloneState(next), false
		return nil
	}
	if created != "" {
		_ = f.prepared[created].Close()
		delete(f.prepared, created)
		_ = f.VFS.Delete(f.dir, created)
	}
	// The new list may have reached the disk in spite of the error.
	if now, lerr := f.MetaStore.Load(f.dir); lerr == nil && sameState(now, f.state) {
		return err
	}
	if rerr := f.MetaStore.CommitState(f.state); rerr != nil {
		f.uncertain = true
		return errors.Join(err, rerr)
	}
	return err
}

// Create returns the prepared file with that name, or creates it.
func (f *walFiles) Create(_, name string, size uint64) (types.WritableFile, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w := f.prepared[name]; w != nil {
		delete(f.prepared, name)
		return w, nil
	}
	return f.create(name, size)
}

// create creates a file that no durable list has named. If a file with that name exists, a former
// attempt has left it behind, and create replaces it. If create fails, it leaves no file behind.
func (f *walFiles) create(name string, size uint64) (types.WritableFile, error) {
	w, err := f.VFS.Create(f.dir, name, size)
	if errors.Is(err, fs.ErrExist) && f.VFS.Delete(f.dir, name) == nil {
		w, err = f.VFS.Create(f.dir, name, size)
	}
	if err != nil {
		_ = f.VFS.Delete(f.dir, name)
		return nil, err
	}
	return w, nil
}

// removeUnlisted removes the segments that the durable list does not name. raft-wal removes them
// too, but only after it has created a new segment, which may have the same name.
func (f *walFiles) removeUnlisted() error {
	names, err := f.segments()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		if !slices.ContainsFunc(f.state.Segments, func(s types.SegmentInfo) bool { return segment.FileName(s) == name }) {
			if err := f.VFS.Delete(f.dir, name); err != nil {
				return fmt.Errorf("remove a file of the log that is not used: %w", err)
			}
		}
	}
	return nil
}

// segments returns the names of all segments in the directory.
func (f *walFiles) segments() ([]string, error) {
	names, err := f.ListDir(f.dir)
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, ".wal") }), err
}

// isUncertain reports whether it is unknown which list is durable.
func (f *walFiles) isUncertain() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.uncertain
}

// Close does nothing: raft-wal calls it whenever the log is opened again.
func (f *walFiles) Close() error { return nil }

// release closes the list of segments.
func (f *walFiles) release() error { return f.MetaStore.Close() }

// openTail returns the last segment of the list if it is not sealed.
func openTail(s types.PersistentState) (types.SegmentInfo, bool) {
	if len(s.Segments) == 0 {
		return types.SegmentInfo{}, false
	}
	t := s.Segments[len(s.Segments)-1]
	return t, t.SealTime.IsZero()
}

func lists(s types.PersistentState, id uint64) bool {
	return slices.ContainsFunc(s.Segments, func(i types.SegmentInfo) bool { return i.ID == id })
}

func cloneState(s types.PersistentState) types.PersistentState {
	s.Segments = slices.Clone(s.Segments)
	return s
}

// sameState compares two lists as they are stored.
func sameState(a, b types.PersistentState) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}
