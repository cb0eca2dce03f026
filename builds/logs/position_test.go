package logs_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// Test_Position_AfterTheLimit changes the owner of a log that has reached its limit. The
// next owners must continue at the end of the source, and the log must have one line about the
// limit.
func Test_Position_AfterTheLimit(t *testing.T) {
	s := mustOpen(t, logs.Options{MaxBytes: 1000})
	source := bytes.Repeat([]byte("0123456789abcde\n"), 200)
	for epoch := range uint64(3) {
		w := mustCreate(t, s, key, epoch+1)
		if at := w.RawOffset(); epoch > 0 && at != int64(len(source)) {
			t.Errorf("owner %d continues at byte %d of the source, but the former one has taken %d", epoch+1, at, len(source))
		}
		for rest := source[min(int(w.RawOffset()), len(source)):]; len(rest) > 0; {
			n := min(320, len(rest))
			mustWrite(t, w, rest[:n])
			rest = rest[n:]
		}
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	length, _, err := s.Length(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(readTo(t, s, key, 0, length)), "log truncated"); n != 1 {
		t.Errorf("the log says %d times that it was truncated", n)
	}
}

// Test_Position_OfACopy moves a log that has reached its limit to the node of its copy, and then to
// a node with a raised limit. Each next owner continues where the former one was, and stores
// nothing more: the output that was dropped may end within a secret.
func Test_Position_OfACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		for _, c := range []logs.Copy{nodeA, nodeB} {
			g.reps[c].Close()
			_ = g.stores[c].Close()
			limit := map[logs.Copy]int64{nodeA: 1000, nodeB: 100_000}[c]
			g.stores[c] = mustOpen(t, logs.Options{MaxBytes: limit, Grown: func(k logs.Key) { g.reps[c].Grown(k) }})
			g.reps[c] = logs.NewReplicator(g.stores[c], c, g.wire, slog.New(slog.DiscardHandler))
			t.Cleanup(g.reps[c].Close)
		}
		w, feed := g.own(t, nodeA, 1, nodeA, nodeB)
		for range 5 {
			mustWrite(t, w, bytes.Repeat([]byte("0123456789abcde\n"), 1<<17))
		}
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		length, _ := g.stores[nodeA].Durable(key)
		feed.Close()
		if _, _, err := g.stores[nodeB].Fence(key, 2); err != nil {
			t.Fatal(err)
		}
		next, _ := g.own(t, nodeB, 2, nodeA, nodeB)
		if at := next.RawOffset(); at != 5<<21 {
			t.Errorf("the next owner continues at byte %d, want %d", at, 5<<21)
		}
		mustWrite(t, next, []byte("more\n"))
		if err := next.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, _ := g.stores[nodeB].Durable(key); n != length {
			t.Errorf("a truncated log of %d bytes has grown to %d", length, n)
		}
	})
}

// Test_Position_SkipsAreRare drops much output in small pieces. The log must not grow by a record
// for each of them.
func Test_Position_SkipsAreRare(t *testing.T) {
	disk := &ram{files: map[string]*ramFile{}}
	s := mustOpen(t, logs.Options{FS: disk, MaxBytes: 1000})
	w := mustCreate(t, s, key, 1)
	for range 200_000 {
		mustWrite(t, w, []byte("a line of the output after the limit of the log\n"))
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, f := range disk.files {
		size += len(f.now)
	}
	if size > 10_000 {
		t.Errorf("a log of at most 1000 bytes needs %d bytes on the disk", size)
	}
}

// Test_Position_Reposition stores that a runtime reads the output of the workload from its start
// again. The position must be right in a copy and after a restart, even if more output follows and
// another segment begins.
func Test_Position_Reposition(t *testing.T) {
	for name, extended := range map[string]bool{"level 4": false, "level 5": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dirs := map[logs.Copy]string{nodeA: t.TempDir(), nodeB: t.TempDir()}
				g := newGroup(t)
				for c, dir := range dirs {
					g.reps[c].Close()
					_ = g.stores[c].Close()
					g.stores[c] = mustOpen(t, logs.Options{Dir: dir, SegmentBytes: 100, Extended: func() bool { return extended }, Grown: func(k logs.Key) { g.reps[c].Grown(k) }})
					g.reps[c] = logs.NewReplicator(g.stores[c], c, g.wire, slog.New(slog.DiscardHandler))
					t.Cleanup(g.reps[c].Close)
				}
				w, feed := g.own(t, nodeA, 1, nodeA, nodeB)
				write := func(n int) {
					t.Helper()
					for range n {
						mustWrite(t, w, []byte("0123456789"))
						if err := w.Flush(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
				write(10)
				if err := w.Marker("the output is read again"); err != nil {
					t.Fatal(err)
				}
				if err := w.Reposition(0); err != nil {
					t.Fatal(err)
				}
				write(12)
				if err := w.Reposition(5); err != nil { // nothing follows
					t.Fatal(err)
				}
				want := int64(5)
				if !extended {
					want = 220 // as in older versions
				}
				if err := w.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				feed.Close()
				for c, dir := range dirs {
					if err := g.stores[c].Close(); err != nil {
						t.Fatal(err)
					}
					s := mustOpen(t, logs.Options{Dir: dir})
					if at := mustCreate(t, s, key, 2).RawOffset(); at != want {
						t.Errorf("on node %s the next owner continues at %d, want %d", c.Node, at, want)
					}
				}
			})
		})
	}
}
