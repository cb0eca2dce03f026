package peer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	"github.com/image-builder-ha/image-builder/builds/logs"
)

// hungFS is a disk whose fsync waits until healed is closed, once hangs is set.
type hungFS struct {
	logs.FS
	hangs  atomic.Bool
	healed chan struct{}
}

type hungFile struct {
	logs.File
	fs *hungFS
}

func (f *hungFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return hungFile{file, f}, nil
}

func (f hungFile) Sync() error {
	if f.fs.hangs.Load() {
		<-f.fs.healed
	}
	return f.File.Sync()
}

// Test_OpenLog_TheDiskHangs: this node's copy of a complete log has bytes after the end, and its disk
// hangs while the copy is cut. Readers give up after localTimeout, so that they can read another copy.
// They all wait for one cut, which ends once the disk works again.
func Test_OpenLog_TheDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := buildstest.NewMachine(t)
		id := m.Create("r:1").Build.Id
		m.Succeed(id)
		at := builds.CopiesOf(m.Build(id).Attempts[0])[0]
		disk := &hungFS{FS: logs.Disk(), healed: make(chan struct{})}
		l, err := Open(Options{
			Node: at.Node, StoreID: at.StoreId, Conn: noConn, State: m.Store, Stopping: t.Context(), Log: slog.New(slog.DiscardHandler),
			Store: logs.Options{Dir: t.TempDir(), FS: disk},
		})
		if err != nil {
			t.Fatal(err)
		}
		key := logs.Key{Build: id, Attempt: 1}
		w, err := l.store.Create(key, 1, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range []string{"ab\n", "cd\n"} {
			if _, err := w.Write([]byte(line)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if n, err := l.store.Durable(key); n != int64(3*i+3) || err != nil {
				t.Fatalf("%d bytes are durable, %v", n, err)
			}
		}
		w.Leave()
		disk.hangs.Store(true)
		begin := time.Now()
		for range 3 {
			go func() {
				_, err := l.openLocal(t.Context(), key, 0)
				if !errors.Is(err, builds.ErrLogAway) || time.Since(begin) > 2*localTimeout {
					t.Errorf("after %v: %v, want %v", time.Since(begin), err, builds.ErrLogAway)
				}
			}()
		}
		time.Sleep(3 * localTimeout)
		if l.Completed(key) { // waits for no disk
			t.Error("the copy is complete while its disk hangs")
		}
		l.completions.mu.Lock()
		n := len(l.completions.running)
		l.completions.mu.Unlock()
		if n != 1 {
			t.Errorf("%d cuts wait for the disk, want 1", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.openLocal(ctx, key, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the end of the caller's context", err)
		}
		close(disk.healed)
		synctest.Wait()
		stream, err := l.openLocal(t.Context(), key, 0)
		if err != nil {
			t.Fatal(err)
		}
		chunk, _, err := stream.Next(t.Context())
		if string(chunk) != "ab\n" || err != nil {
			t.Errorf("read %q, %v", chunk, err)
		}
		if _, _, err := stream.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("%v, want the end of the log", err)
		}
		_ = stream.Close()
		l.StopCopying()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
