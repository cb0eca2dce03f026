package sim

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// disk is the disk under the logs of a machine. It outlives the processes of the machine. A written
// byte survives the end of a process, and a synced byte also survives a power loss.
type disk struct {
	mu    sync.Mutex
	hangs chan struct{} // closed when the disk works again; nil while it works
	full  bool          // whether nothing can be written
	files map[string]*file
}

// file is one file of a disk.
type file struct {
	data    []byte // content that processes read
	synced  []byte // content after a power loss
	created bool   // whether the directory entry was synced: without it a power loss removes the file
}

func newDisk() *disk { return &disk{files: map[string]*file{}} }

// mount is a disk as one process uses it. All calls fail after kill.
func (d *disk) mount() *mount { return &mount{d: d, end: make(chan struct{})} }

// hang makes all fsyncs wait until works is called. They neither fail nor succeed meanwhile.
func (d *disk) hang() (works func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := make(chan struct{})
	d.hangs = c
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.hangs = nil
		close(c)
	}
}

// setFull makes all writes fail for lack of room, or ends that.
func (d *disk) setFull(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// powerLoss drops all changes that were not synced.
func (d *disk) powerLoss() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, f := range d.files {
		if !f.created {
			delete(d.files, name)
			continue
		}
		f.data = append([]byte(nil), f.synced...)
	}
}

// damage removes a file whose name begins with prefix, or flips a bit of it. It reports whether
// there is such a file.
func (d *disk) damage(prefix string, intn func(int) int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, f := range d.files {
		if !strings.HasPrefix(filepath.Base(name), prefix) || len(f.data) == 0 {
			continue
		}
		at := intn(len(f.data))
		if intn(3) == 0 {
			delete(d.files, name)
			return true
		}
		f.data[at] ^= 1
		if at < len(f.synced) {
			f.synced = append([]byte(nil), f.synced...)
			f.synced[at] = f.data[at]
		}
		return true
	}
	return false
}

// mount is a disk as one process sees it.
type mount struct {
	d      *disk
	killed bool          // guarded by d.mu
	end    chan struct{} // closed by kill
}

var _ logs.FS = (*mount)(nil)

var errKilled = errors.New("the process was killed")

// kill makes all later calls of the process fail.
func (m *mount) kill() {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if !m.killed {
		close(m.end)
	}
	m.killed = true
}

// await waits while the disk hangs, or until the process is killed.
func (m *mount) await() {
	m.d.mu.Lock()
	hangs := m.d.hangs
	m.d.mu.Unlock()
	if hangs == nil {
		return
	}
	select {
	case <-hangs:
	case <-m.end:
	}
}

// room returns an error if the disk is full. The caller holds the lock of the disk.
func (m *mount) room(name string) error {
	if m.d.full {
		return &fs.PathError{Op: "write", Path: name, Err: syscall.ENOSPC}
	}
	return nil
}

// do calls f under the lock of the disk, unless the process was killed.
func (m *mount) do(f func() error) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if m.killed {
		return errKilled
	}
	return f()
}

func (m *mount) OpenFile(name string, flag int, _ os.FileMode) (out logs.File, err error) {
	err = m.do(func() error {
		f := m.d.files[name]
		switch {
		case f == nil && flag&os.O_CREATE == 0:
			return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		case f != nil && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
			return &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
		case f == nil:
			if err := m.room(name); err != nil {
				return err
			}
			f = &file{}
			m.d.files[name] = f
		}
		if flag&os.O_TRUNC != 0 {
			f.data = nil
		}
		out = handle{m, f}
		return nil
	})
	return out, err
}

func (m *mount) Remove(name string) error {
	return m.do(func() error {
		if m.d.files[name] == nil {
			return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
		}
		delete(m.d.files, name)
		return nil
	})
}

func (m *mount) List(dir string) (names []string, err error) {
	err = m.do(func() error {
		for name := range m.d.files {
			if filepath.Dir(name) == dir {
				names = append(names, filepath.Base(name))
			}
		}
		return nil
	})
	return names, err
}

func (m *mount) SyncDir(dir string) error {
	return m.do(func() error {
		for name, f := range m.d.files {
			f.created = f.created || filepath.Dir(name) == dir
		}
		return nil
	})
}

// handle is an open file of one process.
type handle struct {
	m *mount
	f *file
}

func (h handle) ReadAt(p []byte, at int64) (n int, err error) {
	err = h.m.do(func() error {
		if at < int64(len(h.f.data)) {
			n = copy(p, h.f.data[at:])
		}
		if n < len(p) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

func (h handle) WriteAt(p []byte, at int64) (n int, err error) {
	err = h.m.do(func() error {
		if err := h.m.room("log"); err != nil {
			return err
		}
		if end := int(at) + len(p); end > len(h.f.data) {
			h.f.data = append(h.f.data, make([]byte, end-len(h.f.data))...)
		}
		n = copy(h.f.data[at:], p)
		return nil
	})
	return n, err
}

func (h handle) Truncate(size int64) error {
	return h.m.do(func() error {
		if size <= int64(len(h.f.data)) {
			h.f.data = h.f.data[:size:size]
			return nil
		}
		h.f.data = append(h.f.data, make([]byte, int(size)-len(h.f.data))...)
		return nil
	})
}

func (h handle) Sync() error {
	h.m.await()
	return h.m.do(func() error {
		h.f.synced = append(h.f.synced[:0], h.f.data...)
		return nil
	})
}

func (h handle) Size() (n int64, err error) {
	err = h.m.do(func() error { n = int64(len(h.f.data)); return nil })
	return n, err
}

func (h handle) Close() error { return nil }
