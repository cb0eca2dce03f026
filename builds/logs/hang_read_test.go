package logs_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// stuckFS is a file system whose reads wait until healed is closed.
type stuckFS struct {
	logs.FS
	healed chan struct{}
	reads  atomic.Int32 // that wait
	open   atomic.Int32 // files
	fails  error        // of reads
}

type stuckFile struct {
	logs.File
	fs *stuckFS
}

func (f *stuckFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	f.open.Add(1)
	return stuckFile{file, f}, nil
}

func (f stuckFile) ReadAt(p []byte, at int64) (int, error) {
	f.fs.reads.Add(1)
	<-f.fs.healed
	f.fs.reads.Add(-1)
	if f.fs.fails != nil {
		return 0, f.fs.fails
	}
	return f.File.ReadAt(p, at)
}

func (f stuckFile) Close() error {
	f.fs.open.Add(-1)
	return f.File.Close()
}

// Test_Reader_GivesUpOnReadsThatHang reads logs on a disk whose reads hang. Each reader ends with its
// context, few goroutines hang, and all is read once the disk works again.
func Test_Reader_GivesUpOnReadsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all, limit = 100, 64
		dir := t.TempDir()
		keys := make([]logs.Key, all)
		written := mustOpen(t, logs.Options{Dir: dir})
		for i := range keys {
			keys[i] = logs.Key{Build: key.Build, Attempt: uint32(i + 1)}
			w := mustCreate(t, written, keys[i], 1)
			mustWrite(t, w, []byte("a line\n"))
			if _, _, err := sealWriter(t.Context(), written, w, keys[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := written.Close(); err != nil {
			t.Fatal(err)
		}
		disk := &stuckFS{FS: logs.Disk(), healed: make(chan struct{})}
		s := mustOpen(t, logs.Options{Dir: dir, FS: disk})
		within := func() context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			t.Cleanup(cancel)
			return ctx
		}
		hang := func(what string, calls func(i int) error) {
			t.Helper()
			errs := make(chan error, all)
			for i := range all {
				go func() { errs <- calls(i) }()
			}
			synctest.Wait()
			if n := disk.reads.Load(); n < 1 || n > limit {
				t.Errorf("%s: %d reads hang, want 1 to %d", what, n, limit)
			}
			for range all {
				if err := <-errs; !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v, want the end of the context", what, err)
				}
			}
		}
		hang("logs that are not loaded", func(i int) error {
			_, err := s.Reader(within(), keys[i], 0)
			return err
		})
		hang("the length of logs", func(i int) error {
			_, _, err := s.Length(within(), keys[i])
			return err
		})
		close(disk.healed)
		readers := make([]*logs.Reader, all)
		for i, k := range keys {
			var err error
			if readers[i], err = s.Reader(within(), k, 0); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait() // until the reads that hung have ended
		disk.healed = make(chan struct{})
		hang("loaded logs", func(i int) error {
			_, _, err := readers[i].Next(within())
			return err
		})
		close(disk.healed)
		synctest.Wait()
		if n := disk.open.Load(); n != 0 {
			t.Errorf("%d files of readers that gave up are open", n)
		}
		for i, r := range readers {
			if chunk, at, err := r.Next(within()); string(chunk) != "a line\n" || at != 0 || err != nil {
				t.Errorf("log %d: %q at %d, %v", i, chunk, at, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		if n := disk.open.Load(); n != 0 {
			t.Errorf("%d files are open after all readers have closed", n)
		}
	})
}

// Test_Reader_GivesUpBeforeItsRead: a reader in the middle of a log gives up while as many reads as
// possible hang. It closes its file, and continues once the disk works again.
func Test_Reader_GivesUpBeforeItsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const others = 64
		dir := t.TempDir()
		written := mustOpen(t, logs.Options{Dir: dir})
		want := noise(1, 1<<20)
		for i := range others + 1 {
			k := logs.Key{Build: key.Build, Attempt: uint32(i + 1)}
			w := mustCreate(t, written, k, 1)
			mustWrite(t, w, want[:len(want)>>(10*min(i, 1))])
			if _, _, err := sealWriter(t.Context(), written, w, k); err != nil {
				t.Fatal(err)
			}
		}
		if err := written.Close(); err != nil {
			t.Fatal(err)
		}
		disk := &stuckFS{FS: logs.Disk(), healed: make(chan struct{})}
		close(disk.healed)
		s := mustOpen(t, logs.Options{Dir: dir, FS: disk})
		within := func(d time.Duration) context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			t.Cleanup(cancel)
			return ctx
		}
		var readers []*logs.Reader
		for i := range others + 1 {
			r, err := s.Reader(within(time.Hour), logs.Key{Build: key.Build, Attempt: uint32(i + 1)}, 0)
			if err != nil {
				t.Fatal(err)
			}
			readers = append(readers, r)
		}
		long := readers[0]
		got, _, err := long.Next(within(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		got = bytes.Clone(got)
		disk.healed = make(chan struct{})
		var hung sync.WaitGroup
		for _, r := range readers[1:] {
			hung.Go(func() { _, _, _ = r.Next(within(time.Hour)) })
		}
		synctest.Wait()
		if _, _, err := long.Next(within(time.Second)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the reader waits for its turn: %v", err)
		}
		if n := disk.open.Load(); n != others {
			t.Errorf("%d files are open, want %d", n, others)
		}
		close(disk.healed)
		hung.Wait()
		for len(got) < len(want) {
			chunk, _, err := long.Next(within(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, chunk...)
		}
		if !bytes.Equal(got, want) {
			t.Error("the reader that gave up reads other bytes")
		}
		for _, r := range readers {
			_ = r.Close()
		}
	})
}
