package logs_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// farLog is a log on another node that counts its streams.
type farLog struct {
	*logs.Reader
	open *atomic.Int64
}

func (l farLog) Close() error {
	l.open.Add(-1)
	return l.Reader.Close()
}

// far returns a Dial to a log of a store. It counts all streams and the open ones.
func far(s *logs.Store) (dial logs.Dial, all, open *atomic.Int64) {
	all, open = new(atomic.Int64), new(atomic.Int64)
	return func(ctx context.Context, offset int64) (logs.Upstream, error) {
		r, err := s.Reader(ctx, key, offset)
		if err != nil {
			return nil, err
		}
		all.Add(1)
		open.Add(1)
		return farLog{r, open}, nil
	}, all, open
}

// Test_Relay_OneStreamForAllReaders checks that all readers of a log of one owner share one stream,
// that the log of another owner has another stream, and that the last reader ends the stream.
func Test_Relay_OneStreamForAllReaders(t *testing.T) {
	const readers = 50
	s := mustOpen(t, logs.Options{})
	w := mustCreate(t, s, key, 1)
	dial, all, open := far(s)
	var hub logs.Relays
	var opened []*logs.RelayReader
	for range readers {
		r, err := hub.Open(t.Context(), logs.RelayKey{Key: key, Epoch: 1}, 0, dial)
		if err != nil {
			t.Fatal(err)
		}
		opened = append(opened, r)
	}
	want := noise(7, 300_000) // within the window: no reader needs a stream of its own
	got := make([][]byte, readers)
	var wg sync.WaitGroup
	for i, r := range opened {
		wg.Go(func() {
			for {
				chunk, at, err := r.Next(t.Context())
				if err != nil {
					if err != io.EOF {
						t.Error(err)
					}
					return
				}
				if at != int64(len(got[i])) {
					t.Errorf("reader %d got offset %d, want %d", i, at, len(got[i]))
				}
				got[i] = append(got[i], chunk...)
			}
		})
	}
	for i := 0; i < len(want); i += 10_000 {
		mustWrite(t, w, want[i:i+10_000])
	}
	if _, _, err := sealWriter(t.Context(), s, w, key); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for i := range got {
		if string(got[i]) != string(want) {
			t.Errorf("reader %d got %d other bytes", i, len(got[i]))
		}
	}
	if n := all.Load(); n != 1 {
		t.Errorf("%d streams for %d readers of one owner's log", n, readers)
	}
	next, err := hub.Open(t.Context(), logs.RelayKey{Key: key, Epoch: 2}, 0, dial)
	if err != nil {
		t.Fatal(err)
	}
	if n := all.Load(); n != 2 {
		t.Errorf("the next owner's log has %d streams", n-1)
	}
	for _, r := range append(opened, next) {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	hub.Close()
	if n := open.Load(); n != 0 {
		t.Errorf("%d streams are open after the last reader", n)
	}
}

// Benchmark_IdleFollowers measures the cost of a reader that waits at the end of a log of another
// node.
func Benchmark_IdleFollowers(b *testing.B) {
	const followers = 1000
	for b.Loop() {
		s := mustOpen(b, logs.Options{})
		w := mustCreate(b, s, key, 1)
		dial, _, _ := far(s)
		var hub logs.Relays
		ctx, cancel := context.WithCancel(b.Context())
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		goroutines := runtime.NumGoroutine()
		var wg sync.WaitGroup
		for range followers {
			r, err := hub.Open(ctx, logs.RelayKey{Key: key, Epoch: 1}, 0, dial)
			if err != nil {
				b.Fatal(err)
			}
			wg.Go(func() {
				defer r.Close()
				_, _, _ = r.Next(ctx)
			})
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc+after.StackInuse-before.HeapAlloc-before.StackInuse)/followers, "B/follower")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/followers, "goroutines/follower")
		cancel()
		wg.Wait()
		hub.Close()
		if _, _, err := sealWriter(context.Background(), s, w, key); err != nil {
			b.Fatal(err)
		}
	}
}

// Test_Relays_AfterClose: a reader that comes after Close gets an error, and no stream begins.
func Test_Relays_AfterClose(t *testing.T) {
	var h logs.Relays
	h.Close()
	_, err := h.Open(t.Context(), logs.RelayKey{}, 0, func(context.Context, int64) (logs.Upstream, error) {
		t.Error("a stream was opened")
		return nil, nil
	})
	if !errors.Is(err, logs.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}
