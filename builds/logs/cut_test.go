package logs_test

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// badFS is a disk whose reads or removals fail while set.
type badFS struct {
	logs.FS
	reads, removes atomic.Bool
}

type badFile struct {
	logs.File
	fs *badFS
}

func (f *badFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return badFile{file, f}, nil
}

func (f *badFS) Remove(name string) error {
	if f.removes.Load() {
		return &os.PathError{Op: "remove", Path: name, Err: syscall.EROFS}
	}
	return f.FS.Remove(name)
}

func (f badFile) ReadAt(p []byte, at int64) (int, error) {
	if f.fs.reads.Load() {
		return 0, &os.PathError{Op: "read", Path: "log", Err: syscall.ENOMEM}
	}
	return f.File.ReadAt(p, at)
}

// openTwoLines returns a store with a log of two lines in two segments, of which readers see the
// first one, 11 bytes.
func openTwoLines(t *testing.T, fs logs.FS, dir string) *logs.Store {
	t.Helper()
	s := mustOpen(t, logs.Options{FS: fs, Dir: dir, SegmentBytes: 1})
	w, err := s.Create(key, 1, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range []string{"first line\n", "second line\n"} {
		mustWrite(t, w, []byte(line))
		testkit.Eventually(t, 10*time.Second, "the line is durable", func() bool { n, _ := s.Durable(key); return n == int64(11+12*i) })
		s.Show(key, 11)
	}
	return s
}

// Test_Cut_AFailedReadChangesNothing completes a log while its disk cannot be read. A reader must
// get an error or the bytes, and once the disk works again, the log completes.
func Test_Cut_AFailedReadChangesNothing(t *testing.T) {
	disk := &badFS{FS: logs.Disk()}
	s := openTwoLines(t, disk, t.TempDir())
	disk.reads.Store(true)
	if err := s.Complete(key, 11); err == nil || errors.Is(err, logs.ErrDamaged) {
		t.Errorf("Complete on a disk that cannot be read: %v", err)
	}
	r, err := s.Reader(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, _, _ = r.Next(t.Context()) // it must not panic
	disk.reads.Store(false)
	if err := s.Complete(key, 11); err != nil {
		t.Fatal(err)
	}
	if got := string(readTo(t, s, key, 0, all)); got != "first line\n" {
		t.Errorf("the sealed log is %q", got)
	}
}

// Test_Cut_AFailedRemovalIsRepeated cuts a log whose later segment cannot be removed. Its readers
// get the bytes before the end. The next process finds the end that the state names, and so does a
// new owner, whose output follows the cut.
func Test_Cut_AFailedRemovalIsRepeated(t *testing.T) {
	for name, next := range map[string]func(t *testing.T, s *logs.Store) *logs.Store{
		"complete": func(t *testing.T, s *logs.Store) *logs.Store {
			if err := s.Complete(key, 11); err != nil {
				t.Fatal(err)
			}
			return s
		},
		"append": func(t *testing.T, s *logs.Store) *logs.Store {
			cut := logs.Append{Key: key, Epoch: 2, Offset: 11, Cut: true}
			if acks := s.Append(t.Context(), []logs.Append{cut}); acks[0].Refusal == nil {
				t.Errorf("a cut that failed is acknowledged: %+v", acks[0])
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, disk := t.TempDir(), &badFS{FS: logs.Disk()}
			s := openTwoLines(t, disk, dir)
			disk.removes.Store(true)
			s = next(t, s)
			if got := string(readTo(t, s, key, 0, 11)); got != "first line\n" {
				t.Errorf("readers get %q", got)
			}
			disk.removes.Store(false)
			if name == "append" {
				cut := logs.Append{Key: key, Epoch: 2, Offset: 11, Cut: true}
				if acks := s.Append(t.Context(), []logs.Append{cut}); acks[0].Refusal != nil || acks[0].Length != 11 {
					t.Fatalf("the cut is not repeated: %+v", acks[0])
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, logs.Options{Dir: dir})
			if n, err := s.Durable(key); name == "append" && n != 11 || err != nil {
				t.Errorf("after a restart the log has %d bytes: %v", n, err)
			}
			if err := s.Complete(key, 11); err != nil {
				t.Fatal(err)
			}
			if got := string(readTo(t, s, key, 0, all)); got != "first line\n" {
				t.Errorf("after a restart the sealed log is %q", got)
			}
		})
	}
}
