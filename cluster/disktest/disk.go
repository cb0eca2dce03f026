// Package disktest has disks for tests of the replicated log: one in memory that fails, hangs and
// loses power, and a real file system that loses power.
package disktest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"sync"

	"github.com/hashicorp/raft-wal/types"

	"github.com/image-builder-ha/image-builder/cluster/raftlog"
)

// Disk is a disk in memory for the replicated log of a node. It outlives the processes of the node.
// As on a real disk, a write survives the death of its process at once, but a power loss only if it
// was synced. The list of segments, the term and the vote are durable at once, as bbolt makes them.
type Disk struct {
	// Fail, if it is set, may return an error for each operation that needs room: "create",
	// "write", "sync", "metadata" or "mark". Set it before the first Mount.
	Fail func(op string) error
	// Room, if it is set, returns how many bytes the disk has left. It does not limit the writes.
	// Set it before the first Mount.
	Room func() uint64

	mu     sync.Mutex
	hangs  chan struct{} // closed when the disk works again; nil while it works
	files  map[string]*diskFile
	mark   *diskFile
	meta   types.PersistentState
	stable map[string][]byte
}

// diskFile is a file as a process reads it, with the data that undoes the writes that were not
// synced.
type diskFile struct {
	size   int // at least len(data); the rest reads as zeros
	data   []byte
	undo   []overwritten // oldest first
	synced bool          // its directory entry is durable
}

// overwritten is the former content that a write replaced: data from at on, and the former length
// of the file.
type overwritten struct {
	at     int
	data   []byte
	length int
}

// NewDisk returns an empty disk.
func NewDisk() *Disk {
	return &Disk{files: map[string]*diskFile{}, stable: map[string][]byte{}}
}

// Mount gives one process the use of the disk.
func (d *Disk) Mount() *Mount { return &Mount{d: d, kill: make(chan struct{})} }

// Hang makes all syncs and changes of metadata wait until works is called. They neither fail nor
// succeed meanwhile, as on a disk whose controller does not respond.
func (d *Disk) Hang() (works func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := make(chan struct{})
	d.hangs = c
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.hangs == c {
			d.hangs = nil
		}
		close(c)
	}
}

// await waits while the disk hangs, or until the process of the mount is killed.
func (m *Mount) await(op string) {
	if op != "sync" && op != "metadata" {
		return
	}
	m.d.mu.Lock()
	hangs := m.d.hangs
	m.d.mu.Unlock()
	if hangs == nil {
		return
	}
	select {
	case <-hangs:
	case <-m.kill:
	}
}

// PowerLoss undoes the writes that were not synced: for each file all of them or none, as n(2)
// decides, because the system may have written them anyway. No process may use the disk.
func (d *Disk) PowerLoss(n func(int) int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range d.names() {
		if f := d.files[name]; f.powerLoss(n) {
			delete(d.files, name)
		}
	}
	if d.mark != nil && d.mark.powerLoss(n) {
		d.mark = nil
	}
}

func (d *Disk) names() (names []string) {
	for name := range d.files {
		names = append(names, name)
	}
	slices.Sort(names) // the same decisions for the same seed
	return names
}

// powerLoss reports whether the file itself is gone.
func (f *diskFile) powerLoss(n func(int) int) (gone bool) {
	if len(f.undo) == 0 && f.synced || n(2) == 0 {
		f.undo, f.synced = nil, true
		return false
	}
	if !f.synced {
		return true
	}
	for _, o := range slices.Backward(f.undo) {
		f.data = append(append(f.data[:o.at:o.at], o.data...), f.data[min(len(f.data), o.at+len(o.data)):]...)[:o.length]
	}
	f.undo = nil
	return false
}

func (f *diskFile) write(p []byte, at int) {
	end := at + len(p)
	o := overwritten{at: min(at, len(f.data)), length: len(f.data)}
	o.data = append(o.data, f.data[o.at:min(end, len(f.data))]...)
	f.undo = append(f.undo, o)
	if end > len(f.data) {
		f.data = append(f.data, make([]byte, end-len(f.data))...)
	}
	copy(f.data[at:], p)
	f.size = max(f.size, len(f.data))
}

func (f *diskFile) read(p []byte, at int) (n int, err error) {
	if at >= f.size {
		return 0, io.EOF
	}
	n = min(len(p), f.size-at)
	clear(p[:n])
	if at < len(f.data) {
		copy(p[:n], f.data[at:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Mount is a Disk as one process sees it.
type Mount struct {
	d      *Disk
	killed bool          // under d.mu
	kill   chan struct{} // closed by Kill
}

var _ raftlog.Disk = (*Mount)(nil)

// errKilled wraps fs.ErrClosed: the log of a killed process does not end the process of the test.
var errKilled = fmt.Errorf("disktest: the process was killed (%w)", fs.ErrClosed)

// Kill makes all further operations of the process fail without effect.
func (m *Mount) Kill() {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if !m.killed {
		close(m.kill)
	}
	m.killed = true
}

// do calls f while no other operation runs. op is "" for operations that need no room.
func (m *Mount) do(op string, f func() error) error {
	m.await(op)
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if m.killed {
		return errKilled
	}
	if op != "" && m.d.Fail != nil {
		if err := m.d.Fail(op); err != nil {
			return err
		}
	}
	return f()
}

// Free returns how many bytes the disk has left.
func (m *Mount) Free() (uint64, error) {
	if m.d.Room == nil {
		return math.MaxUint64, nil
	}
	return m.d.Room(), nil
}

// ListDir returns the names of all files, sorted.
func (m *Mount) ListDir(string) (names []string, err error) {
	err = m.do("", func() error { names = m.d.names(); return nil })
	return names, err
}

// Create makes a file of size zero bytes. It is durable once it is synced.
func (m *Mount) Create(_, name string, size uint64) (w types.WritableFile, err error) {
	err = m.do("create", func() error {
		if m.d.files[name] != nil {
			return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
		}
		f := &diskFile{size: int(size)}
		m.d.files[name] = f
		w = diskHandle{m, f, "write"}
		return nil
	})
	return w, err
}

// Delete removes a file durably.
func (m *Mount) Delete(_, name string) error {
	return m.do("", func() error {
		if m.d.files[name] == nil {
			return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
		}
		delete(m.d.files, name)
		return nil
	})
}

// OpenReader opens a file.
func (m *Mount) OpenReader(dir, name string) (types.ReadableFile, error) {
	return m.OpenWriter(dir, name)
}

// OpenWriter opens a file.
func (m *Mount) OpenWriter(_, name string) (w types.WritableFile, err error) {
	err = m.do("", func() error {
		f := m.d.files[name]
		if f == nil {
			return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		w = diskHandle{m, f, "write"}
		return nil
	})
	return w, err
}

// OpenMark opens the file that holds the end of the log.
func (m *Mount) OpenMark(create bool) (f raftlog.MarkFile, err error) {
	err = m.do("", func() error {
		if m.d.mark == nil {
			if !create {
				return fs.ErrNotExist
			}
			m.d.mark = &diskFile{}
		}
		f = diskHandle{m, m.d.mark, "mark"}
		return nil
	})
	return f, err
}

// Meta returns the store of the list of segments, of the term and of the vote.
func (m *Mount) Meta() types.MetaStore { return diskMeta{m} }

// diskHandle is an open file.
type diskHandle struct {
	m  *Mount
	f  *diskFile
	op string // of its writes
}

func (h diskHandle) ReadAt(p []byte, at int64) (n int, err error) {
	err = h.m.do("", func() (err error) { n, err = h.f.read(p, int(at)); return err })
	return n, err
}

func (h diskHandle) WriteAt(p []byte, at int64) (int, error) {
	if err := h.m.do(h.op, func() error { h.f.write(p, int(at)); return nil }); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (h diskHandle) Sync() error {
	return h.m.do("sync", func() error { h.f.undo, h.f.synced = nil, true; return nil })
}

func (h diskHandle) Close() error { return nil }

// diskMeta is the metadata that raft-wal stores in bbolt on a real disk.
type diskMeta struct{ m *Mount }

func (d diskMeta) Load(string) (s types.PersistentState, err error) {
	err = d.m.do("", func() error {
		s = d.m.d.meta
		s.Segments = slices.Clone(s.Segments)
		return nil
	})
	return s, err
}

func (d diskMeta) CommitState(s types.PersistentState) error {
	return d.m.do("metadata", func() error {
		s.Segments = slices.Clone(s.Segments)
		d.m.d.meta = s
		return nil
	})
}

func (d diskMeta) GetStable(key []byte) (value []byte, err error) {
	err = d.m.do("", func() error { value = slices.Clone(d.m.d.stable[string(key)]); return nil })
	return value, err
}

// SetStable stores a term or a vote. After Kill it does nothing and returns no error, because Raft
// panics if it cannot store its term. Nobody can see the vote of a killed process.
func (d diskMeta) SetStable(key, value []byte) error {
	err := d.m.do("metadata", func() error { d.m.d.stable[string(key)] = slices.Clone(value); return nil })
	if errors.Is(err, errKilled) {
		return nil
	}
	return err
}

func (d diskMeta) Close() error { return nil }
