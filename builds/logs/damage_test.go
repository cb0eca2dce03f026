package logs_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// Test_Damage_IsKnownUntilRemoved checks that damage that a reader or a copy finds is recorded
// until the log is removed, and that the log can be copied again after that.
func Test_Damage_IsKnownUntilRemoved(t *testing.T) {
	for what, c := range map[string]struct {
		harm   func(t *testing.T, file string)
		reopen bool // reopen the store before the log is read
		want   error
	}{
		"a byte changes":                    {harm: flip(1000), want: logs.ErrDamaged},
		"the file goes":                     {harm: remove, want: logs.ErrDamaged},
		"the file is cut off":               {harm: cut, want: logs.ErrDamaged},
		"a byte changes, before a restart":  {harm: flip(1000), reopen: true, want: logs.ErrShort},
		"the header is hurt before a start": {harm: flip(3), reopen: true, want: logs.ErrDamaged},
		"the file goes before a restart":    {harm: remove, reopen: true, want: logs.ErrShort},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			s := mustOpen(t, logs.Options{Dir: dir})
			w := mustCreate(t, s, key, 1)
			out := noise(7, 100<<10)
			mustWrite(t, w, out)
			length, _, err := sealWriter(t.Context(), s, w, key)
			if err != nil {
				t.Fatal(err)
			}
			if _, more := s.Damaged(); s.Damage(key) != nil || isClosed(more) {
				t.Fatal("an intact log is reported as damaged")
			}
			files, err := filepath.Glob(filepath.Join(dir, "*.log"))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			if c.reopen {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			c.harm(t, files[0])
			if c.reopen {
				s = mustOpen(t, logs.Options{Dir: dir})
			}
			_, more := s.Damaged()
			err = s.Complete(key, length)
			if err == nil {
				err = read(t, s)
			}
			if !errors.Is(err, c.want) {
				t.Errorf("read: %v, want %v", err, c.want)
			}
			if keys, _ := s.Damaged(); len(keys) != 1 || keys[0] != key || s.Damage(key) == nil || !isClosed(more) {
				t.Errorf("the damaged logs are %v (%v), channel closed: %v", keys, s.Damage(key), isClosed(more))
			}
			if err := s.Remove(key); err != nil {
				t.Fatal(err)
			}
			if keys, _ := s.Damaged(); len(keys) > 0 || s.Damage(key) != nil {
				t.Errorf("damaged although removed: %v", keys)
			}
			w = mustCreate(t, s, key, 2)
			mustWrite(t, w, out)
			if _, _, err := sealWriter(t.Context(), s, w, key); err != nil {
				t.Fatal(err)
			}
			if got := readTo(t, s, key, 0, all); !bytes.Equal(got, out) {
				t.Errorf("the new copy has %d bytes of %d", len(got), len(out))
			}
		})
	}
}

// Test_Damage_RemovedIsNotDamaged removes a log while a reader reads it.
func Test_Damage_RemovedIsNotDamaged(t *testing.T) {
	s := mustOpen(t, logs.Options{})
	w := mustCreate(t, s, key, 1)
	mustWrite(t, w, noise(7, 1<<20))
	if _, _, err := sealWriter(t.Context(), s, w, key); err != nil {
		t.Fatal(err)
	}
	r, err := s.Reader(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := s.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Next(t.Context()); !errors.Is(err, logs.ErrNotFound) {
		t.Errorf("read: %v, want %v", err, logs.ErrNotFound)
	}
	if keys, _ := s.Damaged(); len(keys) > 0 {
		t.Errorf("damaged: %v", keys)
	}
}

// read reads the log to its end.
func read(t *testing.T, s *logs.Store) error {
	r, err := s.Reader(t.Context(), key, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		if _, _, err := r.Next(t.Context()); err != nil {
			return err
		}
	}
}

func flip(at int) func(*testing.T, string) {
	return func(t *testing.T, file string) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		raw[at] ^= 1
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, file string) {
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

func cut(t *testing.T, file string) {
	if err := os.Truncate(file, 1000); err != nil {
		t.Fatal(err)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
