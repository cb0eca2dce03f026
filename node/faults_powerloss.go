//go:build faults

package node

import (
	"bytes"
	"io"
	"math"
	"os"
	"sync"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// testFS is a file system whose fsyncs are slow while a fault says so. If the
// environment asks for it, it also keeps what was not fsynced in memory: a
// killed process then loses it, as a machine does that loses its power.
func testFS() logs.FS {
	if os.Getenv("IMAGE_BUILDER_TEST_POWER_LOSS") == "" {
		return slowFS{logs.Disk()}
	}
	return slowFS{lazyFS{logs.Disk(), new(sync.Mutex), map[string]*waiting{}}}
}

// lazyFS gives out files whose changes wait for an fsync; all who have a file
// open see them.
type lazyFS struct {
	logs.FS
	mu      *sync.Mutex
	waiting map[string]*waiting
}

// waiting are the changes of a file that were not fsynced.
type waiting struct {
	mu      sync.Mutex
	changes []change
}

// change writes data at an offset or, without data, cuts the file there.
type change struct {
	at   int64
	data []byte
}

func (f lazyFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.waiting[name]
	if w == nil {
		w = &waiting{}
		f.waiting[name] = w
	}
	return &lazyFile{File: file, w: w}, nil
}

func (f lazyFS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.waiting, name)
	return f.FS.Remove(name)
}

type lazyFile struct {
	logs.File
	w *waiting
}

func (f *lazyFile) WriteAt(p []byte, at int64) (int, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.changes = append(f.w.changes, change{at, append([]byte{}, p...)})
	return len(p), nil
}

func (f *lazyFile) Truncate(size int64) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.changes = append(f.w.changes, change{at: size})
	return nil
}

// ReadAt reads what the file would hold after an fsync.
func (f *lazyFile) ReadAt(p []byte, at int64) (int, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if len(f.w.changes) == 0 {
		return f.File.ReadAt(p, at)
	}
	content, err := f.content()
	if err != nil {
		return 0, err
	}
	return bytes.NewReader(content).ReadAt(p, at)
}

// Size is how long the file would be after an fsync.
func (f *lazyFile) Size() (int64, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	content, err := f.content()
	return int64(len(content)), err
}

// content is the file with all changes. The caller holds the lock.
func (f *lazyFile) content() ([]byte, error) {
	content, err := io.ReadAll(io.NewSectionReader(f.File, 0, math.MaxInt64))
	if err != nil {
		return nil, err
	}
	for _, c := range f.w.changes {
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

func (f *lazyFile) Sync() error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	for _, c := range f.w.changes {
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
	f.w.changes = nil
	return f.File.Sync()
}
