package logs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = logs.Key{Build: "0190a0b0-0000-7000-8000-000000000001", Attempt: 1}

func mustOpen(t testing.TB, o logs.Options) *logs.Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := logs.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// sealWriter ends a log like its owner.
func sealWriter(ctx context.Context, s *logs.Store, w *logs.Writer, k logs.Key) (int64, string, error) {
	n, sum, err := w.Seal(ctx)
	return n, sum, errors.Join(err, s.Complete(k, n))
}

// sealDead ends a log whose owner has died.
func sealDead(s *logs.Store, k logs.Key, epoch uint64) (int64, string, error) {
	n, sum, err := s.Fence(k, epoch)
	if err != nil {
		return n, sum, err
	}
	return n, sum, s.Complete(k, n)
}

func mustCreate(t testing.TB, s *logs.Store, k logs.Key, epoch uint64) *logs.Writer {
	t.Helper()
	w, err := s.Create(k, epoch, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func mustWrite(t testing.TB, w *logs.Writer, p []byte) {
	t.Helper()
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
}

// readTo reads until the log has n bytes, or ends.
func readTo(t testing.TB, s *logs.Store, k logs.Key, offset, n int64) []byte {
	t.Helper()
	r, err := s.Reader(t.Context(), k, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out []byte
	for offset+int64(len(out)) < n {
		chunk, at, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if at != offset+int64(len(out)) {
			t.Fatalf("chunk at %d, want %d", at, offset+int64(len(out)))
		}
		out = append(out, chunk...)
	}
	return out
}

const all = int64(1) << 60

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + r.IntN(26))
	}
	return b
}

func Test_Log_FollowSealReplayReopen(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir, SegmentBytes: 100_000})
	w := mustCreate(t, s, key, 1)
	want := noise(1, 1_000_000)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if got := readTo(t, s, key, int64(i*1000), all); !bytes.Equal(got, want[i*1000:]) {
				t.Errorf("reader %d: %d bytes differ from the %d written", i, len(got), len(want))
			}
		})
	}
	for p := want; len(p) > 0; {
		n := min(len(p), 33_333)
		mustWrite(t, w, p[:n])
		p = p[n:]
	}
	length, sum, err := sealWriter(t.Context(), s, w, key)
	if err != nil || length != int64(len(want)) {
		t.Fatalf("sealed %d bytes, %v", length, err)
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, logs.Options{Dir: dir})
	if got := readTo(t, s, key, 123_456, all); !bytes.Equal(got, want[123_456:]) {
		t.Errorf("after reopen: %d bytes differ", len(got))
	}
	if n, sealed, err := s.Length(t.Context(), key); n != length || !sealed || err != nil {
		t.Errorf("after reopen: length %d sealed %v, %v", n, sealed, err)
	}
	if n, again, err := sealDead(s, key, 9); n != length || again != sum || err != nil {
		t.Errorf("sealing again: %d %s %v, want %d %s", n, again, err, length, sum)
	}
	if _, err := s.Create(key, 9, nil, false); !errors.Is(err, logs.ErrSealed) {
		t.Errorf("writing to a sealed log: %v", err)
	}
}

func Test_Log_EmptyNeedsNoFile(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir})
	w := mustCreate(t, s, key, 1)
	if n, _, err := sealWriter(t.Context(), s, w, key); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if got := readTo(t, s, key, 0, all); len(got) != 0 {
		t.Errorf("read %q", got)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("%d files", len(files))
	}
	if _, err := s.Reader(t.Context(), logs.Key{Build: "none", Attempt: 1}, 0); !errors.Is(err, logs.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Create(logs.Key{Build: "../x", Attempt: 1}, 1, nil, false); err == nil {
		t.Error("a build id left the directory")
	}
}

// Test_Recovery_AtEveryCut cuts the last segment at every length, as a crash may. The rest must be
// a prefix of the log, and the log must continue at its raw offset.
func Test_Recovery_AtEveryCut(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir})
	w := mustCreate(t, s, key, 1)
	var want []byte
	for i := range 6 {
		line := fmt.Appendf(nil, "line %d\n", i)
		want = append(want, line...)
		mustWrite(t, w, line)
		readTo(t, s, key, 0, int64(len(want))) // wait, so that each line is a record
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	name := one(t, dir)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for cut := len(good); cut >= 0; cut-- {
		d := t.TempDir()
		path := filepath.Join(d, filepath.Base(name))
		if err := os.WriteFile(path, good[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := logs.Open(logs.Options{Dir: d})
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Create(key, 2, nil, false)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		at := w.RawOffset()
		if at > int64(len(want)) || (cut == len(good) && at != int64(len(want))) {
			t.Fatalf("cut at %d: continues at %d", cut, at)
		}
		mustWrite(t, w, want[at:])
		if _, _, err := sealWriter(t.Context(), s, w, key); err != nil {
			t.Fatal(err)
		}
		if got := readTo(t, s, key, 0, all); !bytes.Equal(got, want) {
			t.Fatalf("cut at %d: read %q", cut, got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func one(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatal("no segment", err)
	}
	return files[0]
}

func Test_Damage_InAnEarlierSegmentIsTold(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir, SegmentBytes: 1000})
	w := mustCreate(t, s, key, 1)
	for i := range 5 {
		mustWrite(t, w, noise(uint64(i), 1000))
		readTo(t, s, key, 0, int64(i+1)*1000)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(one(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	raw[500] ^= 1
	if err := os.WriteFile(one(t, dir), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, logs.Options{Dir: dir})
	if _, err := s.Reader(t.Context(), key, 0); err == nil || !strings.Contains(err.Error(), filepath.Base(one(t, dir))) {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

// Test_Recovery_TornTailOfAFullSegment checks that a writer cuts a torn end of a full segment
// before it begins another segment.
func Test_Recovery_TornTailOfAFullSegment(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir, SegmentBytes: 1000, MaxBytes: 3000})
	mustWrite(t, mustCreate(t, s, key, 1), noise(1, 2000))
	readTo(t, s, key, 0, 2000)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(one(t, dir), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("torn"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for epoch := uint64(2); epoch < 5; epoch++ { // also above the limit
		s = mustOpen(t, logs.Options{Dir: dir, SegmentBytes: 1000, MaxBytes: 3000})
		w, err := s.Create(key, epoch, nil, false)
		if err != nil {
			t.Fatalf("epoch %d: %v", epoch, err)
		}
		mustWrite(t, w, noise(1, 2000))
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		n, _, _ := s.Length(t.Context(), key)
		if n <= 2000 {
			t.Errorf("epoch %d: the log still has %d bytes", epoch, n)
		}
		readTo(t, s, key, 0, n)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func Test_Fence_OlderWritersAreRefused(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir})
	old := mustCreate(t, s, key, 3)
	mustWrite(t, old, []byte("first\n"))
	readTo(t, s, key, 0, 6)
	next := mustCreate(t, s, key, 5)
	if _, err := old.Write([]byte("late\n")); !errors.Is(err, logs.ErrFenced) {
		t.Errorf("the old writer: %v", err)
	}
	mustWrite(t, next, []byte("second\n"))
	readTo(t, s, key, 0, 13)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, logs.Options{Dir: dir})
	if _, err := s.Create(key, 4, nil, false); !errors.Is(err, logs.ErrFenced) {
		t.Errorf("an old epoch after a restart: %v", err)
	}
	if _, _, err := sealDead(s, key, 6); err != nil {
		t.Fatal(err)
	}
	if got := readTo(t, s, key, 0, all); string(got) != "first\nsecond\n" {
		t.Errorf("read %q", got)
	}
}

// slowFS is a disk whose fsync takes 2 ms.
type slowFS struct{ logs.FS }

type slowFile struct{ logs.File }

func (f slowFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	return slowFile{file}, err
}

func (f slowFile) Sync() error {
	<-time.After(2 * time.Millisecond) // this is the fault
	return f.File.Sync()
}

// Test_Seal_WaitsForWhatIsOnItsWay seals while a flush is in progress. The sealed log must contain
// everything that was written.
func Test_Seal_WaitsForWhatIsOnItsWay(t *testing.T) {
	s := mustOpen(t, logs.Options{SyncInterval: time.Microsecond, FS: slowFS{logs.Disk()}})
	for i := range 100 {
		k := logs.Key{Build: key.Build, Attempt: uint32(i + 1)}
		w := mustCreate(t, s, k, 1)
		mustWrite(t, w, []byte("first\n"))
		<-time.After(time.Duration(i*20) * time.Microsecond) // at another moment of the fsync each time
		mustWrite(t, w, []byte("second\n"))
		n, _, err := sealWriter(t.Context(), s, w, k)
		if err != nil || n != 13 {
			t.Fatalf("log %d: sealed %d bytes of 13, %v", i, n, err)
		}
	}
}

func Test_Limit_EndsWithAMarker(t *testing.T) {
	s := mustOpen(t, logs.Options{MaxBytes: 10_000})
	w := mustCreate(t, s, key, 1)
	for range 10 {
		mustWrite(t, w, noise(1, 3000))
	}
	if _, _, err := sealWriter(t.Context(), s, w, key); err != nil {
		t.Fatal(err)
	}
	got := readTo(t, s, key, 0, all)
	if len(got) > 10_200 || !bytes.Contains(got, []byte("limit of 10000 bytes")) || !bytes.HasPrefix(got, noise(1, 3000)) {
		t.Errorf("%d bytes, end %q", len(got), got[max(0, len(got)-80):])
	}
}

func Test_Marker_IsRedacted(t *testing.T) {
	s := mustOpen(t, logs.Options{})
	w, err := s.Create(key, 1, logs.NewRedactor([][]byte{[]byte("hunter2-hunter2")}, nil), false)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, w, []byte("a hunt"))
	if err := w.Marker("failed with hunter2-hunter2"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sealWriter(t.Context(), s, w, key); err != nil {
		t.Fatal(err)
	}
	if got := string(readTo(t, s, key, 0, all)); got != "a huntfailed with [redacted]\n" {
		t.Errorf("read %q", got)
	}
}

func Test_Remove_EndsReaders(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir})
	mustWrite(t, mustCreate(t, s, key, 1), []byte("x"))
	readTo(t, s, key, 0, 1)
	r, err := s.Reader(t.Context(), key, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := s.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Next(t.Context()); !errors.Is(err, logs.ErrNotFound) {
		t.Error(err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 || len(s.Keys()) != 0 {
		t.Errorf("%d files and %d keys are left", len(files), len(s.Keys()))
	}
}

// fullFS is a disk that is full while full is set. It writes half of the data, as real disks do.
type fullFS struct {
	logs.FS
	full atomic.Bool
}

type fullFile struct {
	logs.File
	fs *fullFS
}

func (f *fullFS) OpenFile(name string, flag int, perm os.FileMode) (logs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	return fullFile{file, f}, err
}

func (f fullFile) WriteAt(p []byte, at int64) (int, error) {
	if f.fs.full.Load() {
		n, _ := f.File.WriteAt(p[:len(p)/2], at)
		return n, &os.PathError{Op: "write", Path: "log", Err: syscall.ENOSPC}
	}
	return f.File.WriteAt(p, at)
}

func Test_DiskFull_KeepsWhatWasShown(t *testing.T) {
	disk := &fullFS{FS: logs.Disk()}
	s := mustOpen(t, logs.Options{FS: disk})
	w := mustCreate(t, s, key, 1)
	mustWrite(t, w, []byte("before\n"))
	readTo(t, s, key, 0, 7)
	disk.full.Store(true)
	mustWrite(t, w, []byte("during\n")) // the write fails in the background
	var err error
	for deadline := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(deadline); {
		_, err = w.Write([]byte("more\n"))
	}
	if !errors.Is(err, logs.ErrNoSpace) {
		t.Fatalf("got %v, want %v", err, logs.ErrNoSpace)
	}
	if n, _, _ := s.Length(t.Context(), key); n != 7 {
		t.Errorf("%d bytes are shown, want 7", n)
	}
	disk.full.Store(false)
	length, _, err := sealWriter(t.Context(), s, w, key)
	if err != nil {
		t.Fatal(err)
	}
	got := readTo(t, s, key, 0, all)
	if !bytes.HasPrefix(got, []byte("before\nduring\n")) || int64(len(got)) != length {
		t.Errorf("read %q", got)
	}
}

func Test_DiskFull_SealTellsWhatIsDurable(t *testing.T) {
	disk := &fullFS{FS: logs.Disk()}
	s := mustOpen(t, logs.Options{FS: disk})
	w := mustCreate(t, s, key, 1)
	mustWrite(t, w, []byte("before\n"))
	readTo(t, s, key, 0, 7)
	disk.full.Store(true)
	_, _ = w.Write([]byte("lost\n"))
	if n, _, err := sealWriter(t.Context(), s, w, key); err == nil || n != 7 {
		t.Fatalf("sealed %d, %v, want 7 and an error", n, err)
	}
	if got := string(readTo(t, s, key, 0, all)); got != "before\n" {
		t.Errorf("read %q", got)
	}
}
