package logs_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

var endsFlag = flag.Int("logs.ends", 300, "how many ends of logs to simulate")

// Test_Seal_Simulation ends logs while a copy is one acknowledgement behind and while disks fill.
// Every reader of a sealed log gets the bytes that were shown before, and no reader sees more.
func Test_Seal_Simulation(t *testing.T) {
	const perBubble = 50
	var sum endings
	for seed := uint64(1); sum.ends < *endsFlag; seed++ {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 20))
			dir := t.TempDir()
			for i := range perBubble {
				simulateEnd(t, r, dir, &sum)
				if t.Failed() {
					t.Fatalf("seed %d, end %d", seed, i)
				}
			}
		})
	}
	t.Logf("%+v", sum)
	if sum.early == 0 || sum.early == sum.ends || sum.shown == 0 || sum.fullAtEnd == 0 {
		t.Errorf("the simulation shows too little: %+v", sum)
	}
}

// endings counts what has happened in the simulation.
type endings struct {
	ends, early, fullAtEnd, unknown int
	shown                           int
}

func simulateEnd(t *testing.T, r *rand.Rand, dir string, sum *endings) {
	sum.ends++
	var mu sync.Mutex // of r, which the network uses too
	chance := func(n int) int { mu.Lock(); defer mu.Unlock(); return r.IntN(n) }
	ms := func(n int) time.Duration { return time.Duration(chance(n)) * time.Millisecond }
	net := &lateNet{wire: &wire{to: map[logs.Copy]*logs.Store{}, down: map[logs.Copy]bool{}}}
	slow := 20 // the greatest delay of a message, in milliseconds
	net.delay = func() (request, response time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(r.IntN(20)) * time.Millisecond, time.Duration(r.IntN(slow)) * time.Millisecond
	}
	d := &drama{t: t, rand: r, key: key}
	disks := map[logs.Copy]*fullFS{}
	for _, c := range []logs.Copy{nodeA, nodeB} {
		p := &place{copy: c, disk: &ram{files: map[string]*ramFile{}}}
		disks[c] = &fullFS{FS: p.disk}
		p.store = mustOpen(t, logs.Options{Dir: dir, FS: disks[c], SegmentBytes: 500, Grown: func(k logs.Key) { p.rep.Grown(k) }})
		p.rep = logs.NewReplicator(p.store, c, net, slog.New(slog.DiscardHandler))
		net.to[c] = p.store
		d.places = append(d.places, p)
	}
	a, b := d.places[0], d.places[1]
	w, err := a.store.Create(key, 1, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	feed := a.rep.Start(key, 1, []logs.Copy{nodeA, nodeB}, 0)
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for _, p := range d.places {
		readers.Go(func() { d.read(ctx, p, p.store) })
	}
	lines := 1 + chance(20)
	behind, full := chance(lines), chance(2*lines)
	for i := range lines {
		if i == behind {
			mu.Lock()
			slow = []int{20, 500, 15_000}[r.IntN(3)]
			mu.Unlock()
		}
		if i == full {
			disks[nodeA].full.Store(true)
			disks[nodeB].full.Store(chance(4) == 0)
		}
		if _, err := w.Write(fmt.Appendf(nil, "line %d of the log\n", i)); err != nil {
			break
		}
		time.Sleep(ms(30))
	}
	limit, cancel := context.WithTimeout(t.Context(), ms(3000))
	length, checksum, err := w.Seal(limit)
	cancel()
	if err != nil {
		sum.early++
	}
	if checksum == "" { // the owner cannot read its copy: another node seals the log
		sum.unknown++
		if length, checksum, err = b.store.Fence(key, 2); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(ms(20_000)) // late acknowledgements arrive
	feed.Close()
	for _, p := range d.places {
		p.rep.Close()
	}
	net.late.Wait()
	if chance(2) == 0 {
		disks[nodeA].full.Store(false)
		disks[nodeB].full.Store(false)
	}
	check := func(p *place) {
		if err := p.store.Complete(key, length); err != nil {
			t.Errorf("the copy of node %s cannot be completed at %d: %v", p.copy.Node, length, err)
			return
		}
		got := readTo(t, p.store, key, 0, all)
		if sum, err := p.store.Checksum(key, length); int64(len(got)) != length || sum != checksum || err != nil {
			t.Errorf("node %s has %d of %d bytes with checksum %s (%v), want %s", p.copy.Node, len(got), length, sum, err, checksum)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if !bytes.HasPrefix(got, d.shown) {
			t.Errorf("readers were shown %d bytes of a log that node %s ends at %d", len(d.shown), p.copy.Node, len(got))
		}
	}
	for _, p := range d.places {
		if length == 0 {
			break // no node needs a file of an empty log
		}
		if disks[p.copy].full.Load() {
			sum.fullAtEnd++
		}
		check(p)
		if chance(3) == 0 { // power fails, and the next process completes the log again
			_ = p.store.Close()
			p.disk.powerLoss(r)
			disks[p.copy].full.Store(false)
			p.store = mustOpen(t, logs.Options{Dir: dir, FS: disks[p.copy], SegmentBytes: 500})
			check(p)
		}
	}
	stop()
	readers.Wait()
	if sum.shown += len(d.shown); int64(len(d.shown)) > length {
		t.Errorf("readers were shown %d bytes of a log of %d", len(d.shown), length)
	}
	for _, p := range d.places {
		_ = p.store.Close()
	}
}
