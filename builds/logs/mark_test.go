package logs_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// Test_Damage_FoundDuringARemoval removes a log while the disk fails to read it. The next copy is
// sound: it is not taken for the damaged one, and not removed as such.
func Test_Damage_FoundDuringARemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		written := openTwoLines(t, logs.Disk(), dir)
		if err := written.Close(); err != nil {
			t.Fatal(err)
		}
		disk := &stuckFS{FS: logs.Disk(), healed: make(chan struct{}), fails: syscall.EIO}
		s := mustOpen(t, logs.Options{Dir: dir, FS: disk})
		ended := make(chan error, 2)
		go func() {
			_, err := s.Durable(key)
			ended <- err
		}()
		synctest.Wait()
		go func() { ended <- s.Remove(key) }()
		synctest.Wait()
		close(disk.healed)
		if a, b := <-ended, <-ended; (a == nil) == (b == nil) || !errors.Is(errors.Join(a, b), logs.ErrDamaged) {
			t.Fatalf("the read and the removal end with %v and %v", a, b)
		}
		disk.fails = nil
		w := mustCreate(t, s, key, 2)
		out := noise(7, 1000)
		mustWrite(t, w, out)
		if _, _, err := sealWriter(t.Context(), s, w, key); err != nil {
			t.Fatal(err)
		}
		if keys, _ := s.Damaged(); len(keys) > 0 || s.Damage(key) != nil {
			t.Errorf("the new copy counts as damaged: %v", s.Damage(key))
		}
		if err := s.RemoveDamaged(key); err != nil {
			t.Error(err)
		}
		if got := readTo(t, s, key, 0, all); !bytes.Equal(got, out) {
			t.Errorf("the new copy has %d bytes of %d", len(got), len(out))
		}
	})
}

// Test_Damage_ShortCopyThatGrows: a copy that was too short for its log is not damaged any more once
// it has the whole log.
func Test_Damage_ShortCopyThatGrows(t *testing.T) {
	s := mustOpen(t, logs.Options{})
	w := mustCreate(t, s, key, 1)
	mustWrite(t, w, []byte("one\n"))
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Complete(key, 8); !errors.Is(err, logs.ErrShort) {
		t.Fatalf("%v, want %v", err, logs.ErrShort)
	}
	w = mustCreate(t, s, key, 2)
	mustWrite(t, w, []byte("two\n"))
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Complete(key, 8); err != nil {
		t.Fatal(err)
	}
	if keys, _ := s.Damaged(); len(keys) > 0 || s.Damage(key) != nil {
		t.Errorf("the whole copy counts as damaged: %v", s.Damage(key))
	}
}
