package logs_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// hungFS is a file system whose fsync waits until the channel is closed.
type hungFS struct {
	logs.FS
	healed chan struct{}
}

type hungFile struct {
	logs.File
	healed chan struct{}
}

func (f hungFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return hungFile{file, f.healed}, nil
}

func (f hungFile) Sync() error {
	<-f.healed
	return f.File.Sync()
}

// Test_Reader_GivesUpOnADiskThatHangs reads a log while its fence waits for a disk that hangs. The
// reader ends with its context, and reads on once the disk works again.
func Test_Reader_GivesUpOnADiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		written := openTwoLines(t, logs.Disk(), dir)
		if err := written.Close(); err != nil {
			t.Fatal(err)
		}
		healed := make(chan struct{})
		s := mustOpen(t, logs.Options{Dir: dir, FS: hungFS{logs.Disk(), healed}})
		r, err := s.Reader(t.Context(), key, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		fenced := make(chan error)
		go func() {
			_, _, err := s.Fence(key, 9)
			fenced <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, _, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want the end of the context", err)
		}
		close(healed)
		if err := <-fenced; err != nil {
			t.Fatal(err)
		}
	})
}
