package logs_test

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Level4_WritesOldRecords runs a log through the changes of its owner, of its copies and of
// its position below feature level 5, beyond its limit. The files must be such that version 0.3.0
// reads them, which knows three kinds of records. At feature level 5 the same log has other kinds,
// too.
func Test_Level4_WritesOldRecords(t *testing.T) {
	for name, extended := range map[string]bool{"level 4": false, "level 5": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t)
				var disks []*ram
				for _, c := range []logs.Copy{nodeA, nodeB, nodeC} {
					disk := &ram{files: map[string]*ramFile{}}
					disks = append(disks, disk)
					g.reps[c].Close()
					_ = g.stores[c].Close()
					g.stores[c] = mustOpen(t, logs.Options{FS: disk, SegmentBytes: 300, MaxBytes: 1000, Extended: func() bool { return extended }, Grown: func(k logs.Key) { g.reps[c].Grown(k) }})
					g.reps[c] = logs.NewReplicator(g.stores[c], c, g.wire, slog.New(slog.DiscardHandler))
					t.Cleanup(g.reps[c].Close)
				}
				w, feed := g.own(t, nodeA, 1, nodeA, nodeB)
				write := func(w *logs.Writer, lines int) {
					t.Helper()
					for i := range lines {
						mustWrite(t, w, fmt.Appendf(nil, "line %d of the output\n", i))
					}
					if err := w.Reposition(7); err != nil {
						t.Fatal(err)
					}
					mustWrite(t, w, []byte("after it\n"))
					if err := w.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				write(w, 10)
				feed.Join(nodeC)
				feed.Count(nodeC)
				feed.Set([]logs.Copy{nodeA, nodeC})
				write(w, 10)
				feed.Close()
				if _, _, err := g.stores[nodeC].Fence(key, 2); err != nil {
					t.Fatal(err)
				}
				next, _ := g.own(t, nodeC, 2, nodeA, nodeC)
				write(next, 100) // beyond the limit
				length, _, err := next.Seal(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				testkit.Eventually(t, time.Minute, "the copy has all of it", func() bool { n, _ := g.stores[nodeA].Durable(key); return n == length })
				for _, c := range []logs.Copy{nodeA, nodeC} {
					if err := g.stores[c].Complete(key, length); err != nil {
						t.Fatal(err)
					}
				}
				kinds := map[uint32]bool{}
				for _, disk := range disks {
					for _, f := range disk.files {
						for at := 48; at+16 <= len(f.now); at += 16 + int(binary.BigEndian.Uint32(f.now[at+4:])) {
							kinds[binary.BigEndian.Uint32(f.now[at:])] = true
						}
					}
				}
				for kind := range uint32(8) {
					if want := kind >= 1 && (kind <= 3 || kind <= 5 && extended); kinds[kind] != want {
						t.Errorf("records of the kind %d: %v, want %v", kind, kinds[kind], want)
					}
				}
			})
		})
	}
}
