//go:build faults

package node

import (
	"bytes"
	"io"
	"math"
	"os"
	"sync"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/faults"
)

// This file injects faults into the disk under the logs of builds. A binary with the build tag
// faults serves as the node in tests of slow disks and of power loss.

// faultLogFS returns a file system with slow fsyncs while the fault is switched on. If
// IMAGE_BUILDER_TEST_POWER_LOSS is set, it also keeps unsynced changes in memory: a killed process
// then loses them, as a machine does at a power loss.
func faultLogFS() logs.FS {
	if os.Getenv("IMAGE_BUILDER_TEST_POWER_LOSS") == "" {
		return slowFS{logs.Disk()}
	}
	return slowFS{unsyncedFS{logs.Disk(), new(sync.Mutex), map[string]*unsyncedChanges{}}}
}

// slowFS delays fsyncs of files while the fault is switched on.
type slowFS struct{ logs.FS }

func (f slowFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return slowFile{file}, nil
}

type slowFile struct{ logs.File }

func (f slowFile) Sync() error {
	faults.LogSync()
	return f.File.Sync()
}

// unsyncedFS keeps the changes of its files in memory until an fsync. All open handles of a file
// read the changes.
type unsyncedFS struct {
	logs.FS
	mu      *sync.Mutex
	pending map[string]*unsyncedChanges
}

// unsyncedChanges are the changes of a file since its last fsync.
type unsyncedChanges struct {
	mu      sync.Mutex
	changes []fileChange
}

// fileChange writes data at an offset or, without data, truncates the file there.
type fileChange struct {
	at   int64
	data []byte
}

func (f unsyncedFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	changes := f.pending[name]
	if changes == nil {
		changes = &unsyncedChanges{}
		f.pending[name] = changes
	}
	return &unsyncedFile{File: file, pending: changes}, nil
}

func (f unsyncedFS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pending, name)
	return f.FS.Remove(name)
}

type unsyncedFile struct {
	logs.File
	pending *unsyncedChanges
}

func (f *unsyncedFile) WriteAt(p []byte, at int64) (int, error) {
	f.pending.mu.Lock()
	defer f.pending.mu.Unlock()
	f.pending.changes = append(f.pending.changes, fileChange{at, append([]byte{}, p...)})
	return len(p), nil
}

func (f *unsyncedFile) Truncate(size int64) error {
	f.pending.mu.Lock()
	defer f.pending.mu.Unlock()
	f.pending.changes = append(f.pending.changes, fileChange{at: size})
	return nil
}

// ReadAt reads from the file with its unsynced changes.
func (f *unsyncedFile) ReadAt(p []byte, at int64) (int, error) {
	f.pending.mu.Lock()
	defer f.pending.mu.Unlock()
	if len(f.pending.changes) == 0 {
		return f.File.ReadAt(p, at)
	}
	content, err := f.content()
	if err != nil {
		return 0, err
	}
	return bytes.NewReader(content).ReadAt(p, at)
}

// Size returns the size of the file with its unsynced changes.
func (f *unsyncedFile) Size() (int64, error) {
	f.pending.mu.Lock()
	defer f.pending.mu.Unlock()
	content, err := f.content()
	return int64(len(content)), err
}

// content returns the file with its unsynced changes. The caller holds the lock.
func (f *unsyncedFile) content() ([]byte, error) {
	content, err := io.ReadAll(io.NewSectionReader(f.File, 0, math.MaxInt64))
	if err != nil {
		return nil, err
	}
	for _, c := range f.pending.changes {
		if grow := c.at + int64(len(c.data)) - int64(len(content)); grow > 0 {
			content = append(content, make([]byte, grow)...)
		}
		if c.data == nil {
			content = content[:c.at]
		}
		copy(content[c.at:], c.data)
	}
	return content, nil
}

func (f *unsyncedFile) Sync() error {
	f.pending.mu.Lock()
	defer f.pending.mu.Unlock()
	for _, c := range f.pending.changes {
		var err error
		if c.data == nil {
			err = f.File.Truncate(c.at)
		} else {
			_, err = f.File.WriteAt(c.data, c.at)
		}
		if err != nil {
			return err
		}
	}
	f.pending.changes = nil
	return f.File.Sync()
}
