package raftlog

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// pageFile is a file of a Linux system: a failed sync counts the changed pages as written, although
// the disk does not have them.
type pageFile struct {
	cache, disk []byte
	dirty       map[int64]bool
	syncErr     error
}

const pageSize = 4096

func (f *pageFile) ReadAt(p []byte, at int64) (int, error) {
	return bytes.NewReader(f.cache).ReadAt(p, at)
}

func (f *pageFile) WriteAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) > int64(len(f.cache)) {
		return 0, io.ErrShortWrite
	}
	copy(f.cache[at:], p)
	for page := at / pageSize; page*pageSize < at+int64(len(p)); page++ {
		f.dirty[page] = true
	}
	return len(p), nil
}

func (f *pageFile) Sync() error {
	for page := range f.dirty {
		if f.syncErr == nil {
			copy(f.disk[page*pageSize:(page+1)*pageSize], f.cache[page*pageSize:])
		}
		delete(f.dirty, page)
	}
	return f.syncErr
}

func (f *pageFile) Close() error { return nil }

// Test_Clear_AfterAFailedSync clears the remains of a write while the disk fails. Once it works, the
// disk must have zeros, and not only the cache of the system.
func Test_Clear_AfterAFailedSync(t *testing.T) {
	const size, offset = 64 * pageSize, 3*pageSize + 8
	f := &pageFile{cache: bytes.Repeat([]byte{7}, size), disk: make([]byte, size), dirty: map[int64]bool{}}
	copy(f.disk, f.cache)
	files := &walFiles{}
	f.syncErr = errors.New("an injected error of the disk")
	for range 2 {
		if _, err := files.clearAfter(f, "tail", offset); !errors.Is(err, f.syncErr) {
			t.Fatalf("clear on a disk that fails: %v", err)
		}
	}
	f.syncErr = nil
	if changed, err := files.clearAfter(f, "tail", offset); err != nil || !changed {
		t.Fatalf("clear on a disk that works: changed %t, %v", changed, err)
	}
	want := append(bytes.Repeat([]byte{7}, offset), make([]byte, size-offset)...)
	if !bytes.Equal(f.disk, want) {
		t.Errorf("the disk has data from %d on, want zeros after %d", bytes.LastIndexByte(f.disk, 7), offset)
	}
	if changed, err := files.clearAfter(f, "tail", offset); err != nil || changed {
		t.Errorf("clear once more: changed %t, %v", changed, err)
	}
}
