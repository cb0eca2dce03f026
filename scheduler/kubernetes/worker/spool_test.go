package worker

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

func newSpool(t *testing.T, limit int64) *spool {
	t.Helper()
	s, err := openSpool(t.TempDir(), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func noFlush() error { return nil }

// Test_Spool_Readers reads during writes, from several offsets and across segments.
func Test_Spool_Readers(t *testing.T) {
	s := newSpool(t, 64<<20)
	want := make([]byte, 2*segmentBytes+12345)
	for i := range want {
		want[i] = byte(i >> 7)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	type read struct {
		offset int64
		got    bytes.Buffer
		err    error
		done   chan struct{}
	}
	var reads []*read
	for _, offset := range []int64{0, 1, 0} {
		r := &read{offset: offset, done: make(chan struct{})}
		reads = append(reads, r)
		if _, err := s.write(ctx, want[s.size():s.size()+1000]); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(r.done)
			r.err = s.copy(ctx, &r.got, noFlush, r.offset)
		}()
	}
	for s.size() < int64(len(want)) {
		n := min(1+rand.Int64N(1<<20), int64(len(want))-s.size())
		if _, err := s.write(ctx, want[s.size():s.size()+n]); err != nil {
			t.Fatal(err)
		}
	}
	s.finish()
	for _, r := range reads {
		<-r.done
		if r.err != nil || !bytes.Equal(r.got.Bytes(), want[r.offset:]) {
			t.Errorf("from %d: %d bytes, %v", r.offset, r.got.Len(), r.err)
		}
	}
	// Everything is kept, acknowledged or not, while there is room.
	if err := s.ack(s.size()); err != nil {
		t.Fatal(err)
	}
	if err := s.check(0); err != nil {
		t.Errorf("the beginning is gone: %v", err)
	}
	if err := s.check(s.size() + 1); !errors.Is(err, errBeyond) {
		t.Errorf("beyond the end: %v", err)
	}
	if err := s.ack(s.size() + 1); !errors.Is(err, errBeyond) {
		t.Errorf("acknowledged beyond the end: %v", err)
	}
}

// Test_Spool_Full checks that a full spool waits for acknowledgements, and removes only
// acknowledged output.
func Test_Spool_Full(t *testing.T) {
	s := newSpool(t, 2*segmentBytes)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.write(ctx, make([]byte, 2*segmentBytes)); err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(ctx, 20*time.Millisecond)
	defer stop()
	if _, err := s.write(short, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("wrote beyond the limit: %v", err)
	}
	// An acknowledged part of the oldest segment makes no room.
	if err := s.ack(segmentBytes - 1); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := s.write(ctx, []byte("x"))
		wrote <- err
	}()
	if err := s.ack(segmentBytes); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if err := s.check(0); !errors.Is(err, errGone) {
		t.Errorf("the beginning is said to be there: %v", err)
	}
	if err := s.copy(ctx, &bytes.Buffer{}, noFlush, 0); !errors.Is(err, errGone) {
		t.Errorf("read the beginning: %v", err)
	}
	files, err := os.ReadDir(s.dir)
	if err != nil || len(files) != 2 {
		t.Errorf("%d files are left, %v", len(files), err)
	}
}

// Test_Spool_Cancel ends a reader with its context.
func Test_Spool_Cancel(t *testing.T) {
	s := newSpool(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.copy(ctx, &bytes.Buffer{}, noFlush, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Test_Spool_LeastSize: a worker with the least spool has room again although the owner can acknowledge
// only output that is several MiB behind.
func Test_Spool_LeastSize(t *testing.T) {
	s := newSpool(t, minSpoolBytes)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const behind = 11 << 20 // a position is stored each 4 MiB; a secret of 1 MiB has up to 6 MiB in JSON
	for range 8 {
		if _, err := s.write(ctx, make([]byte, segmentBytes)); err != nil {
			t.Fatal(err)
		}
		if err := s.ack(max(s.size()-behind, 0)); err != nil {
			t.Fatal(err)
		}
	}
}
