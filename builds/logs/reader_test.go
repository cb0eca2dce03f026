package logs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

func Test_SlowReader_CostsOthersNothing(t *testing.T) {
	s := mustOpen(t, logs.Options{})
	w := mustCreate(t, s, key, 1)
	stuck, err := s.Reader(t.Context(), key, 0) // never reads
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	want := noise(5, testkit.InSoak(8, 1)<<20)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got := readTo(t, s, key, 0, all); !bytes.Equal(got, want) {
				t.Errorf("%d bytes differ", len(got))
			}
		})
	}
	mustWrite(t, w, want)
	if _, _, err := sealWriter(t.Context(), s, w, key); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

func Fuzz_Segment(f *testing.F) {
	dir := f.TempDir()
	s, err := logs.Open(logs.Options{Dir: dir})
	if err != nil {
		f.Fatal(err)
	}
	w, err := s.Create(key, 1, nil, false)
	if err != nil {
		f.Fatal(err)
	}
	_, _ = w.Write([]byte("some output\n"))
	_, _, _ = sealWriter(context.Background(), s, w, key)
	_ = s.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	good, err := os.ReadFile(files[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := t.TempDir()
		if err := os.WriteFile(filepath.Join(d, filepath.Base(files[0])), data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := logs.Open(logs.Options{Dir: d})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		n, _, err := sealDead(s, key, 100)
		if err == nil {
			if got := readTo(t, s, key, 0, all); int64(len(got)) != n {
				t.Fatalf("sealed %d bytes, read %d", n, len(got))
			}
		}
	})
}

func Benchmark_Append(b *testing.B) {
	s := mustOpen(b, logs.Options{MaxBytes: 1 << 40})
	w := mustCreate(b, s, key, 1)
	chunk := noise(1, 64<<10)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		mustWrite(b, w, chunk)
	}
}

func Benchmark_SmallLogs(b *testing.B) {
	s := mustOpen(b, logs.Options{})
	var n atomic.Uint32
	b.SetParallelism(64)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			w := mustCreate(b, s, logs.Key{Build: key.Build, Attempt: n.Add(1)}, 1)
			mustWrite(b, w, []byte("one line\n"))
			if _, _, err := sealWriter(context.Background(), s, w, key); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Test_LiveReader_LooksForTheNextOwner checks that a live reader gets ErrMoved when the owner
// leaves the log incomplete, and continues once the log has an owner again.
func Test_LiveReader_LooksForTheNextOwner(t *testing.T) {
	s := mustOpen(t, logs.Options{Dir: t.TempDir()})
	w, err := s.Create(key, 1, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.LiveReader(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	next := func(want string, wantErr error) {
		t.Helper()
		chunk, _, err := r.Next(t.Context())
		if string(chunk) != want || !errors.Is(err, wantErr) {
			t.Errorf("read %q and %v, want %q and %v", chunk, err, want, wantErr)
		}
	}
	write := func(w *logs.Writer, text string) {
		t.Helper()
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write(w, "one\n")
	next("one\n", nil)
	done := make(chan struct{})
	go func() { defer close(done); next("", logs.ErrMoved) }()
	w.Leave()
	<-done
	again, err := s.Create(key, 2, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	w.Leave() // no effect: w is no longer the owner's writer
	write(again, "two\n")
	next("two\n", nil)
	length, _, err := again.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Complete(key, length); err != nil {
		t.Fatal(err)
	}
	again.Leave()
	next("", io.EOF)
}
