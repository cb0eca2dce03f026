//go:build faults

package main

import (
	"os"
	"sync"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// testFS is a file system that keeps what was not fsynced in memory, if the
// environment asks for it: a killed process then loses it, as a machine does
// that loses its power.
func testFS() logs.FS {
	if os.Getenv("IMAGE_BUILDER_TEST_POWER_LOSS") == "" {
		return nil
	}
	return lazyFS{logs.Disk()}
}

type lazyFS struct{ logs.FS }

func (f lazyFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &lazyFile{File: file}, nil
}

type lazyFile struct {
	logs.File
	mu      sync.Mutex
	pending []func() error
}

func (f *lazyFile) WriteAt(p []byte, at int64) (int, error) {
	data := append([]byte(nil), p...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = append(f.pending, func() error { _, err := f.File.WriteAt(data, at); return err })
	return len(p), nil
}

func (f *lazyFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = append(f.pending, func() error { return f.File.Truncate(size) })
	return nil
}

func (f *lazyFile) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, do := range f.pending {
		if err := do(); err != nil {
			return err
		}
	}
	f.pending = nil
	return f.File.Sync()
}
