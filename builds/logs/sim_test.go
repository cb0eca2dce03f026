package logs_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

var failoversFlag = flag.Int("logs.failovers", 600, "how many failovers to simulate")

// ram is a disk in memory. A power loss removes what was not fsynced.
type ram struct {
	mu    sync.Mutex
	files map[string]*ramFile
}

type ramFile struct {
	disk           *ram
	now, durable   []byte
	named, removed bool // named: the directory was fsynced after the creation
}

func (d *ram) OpenFile(name string, flag int, _ os.FileMode) (logs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[name]
	if f == nil || f.removed {
		if flag&os.O_CREATE == 0 {
			return nil, os.ErrNotExist
		}
		f = &ramFile{disk: d}
		d.files[name] = f
	}
	if flag&os.O_TRUNC != 0 {
		f.now = nil
	}
	return f, nil
}

func (d *ram) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.files, name)
	return nil
}

func (d *ram) List(string) (names []string, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n := range d.files {
		names = append(names, filepath.Base(n))
	}
	return names, nil
}

func (d *ram) SyncDir(string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		f.named = true
	}
	return nil
}

// powerLoss keeps what was fsynced, and a random part of what was not.
func (d *ram) powerLoss(r *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n, f := range d.files {
		if !f.named {
			delete(d.files, n)
			continue
		}
		if extra := len(f.now) - len(f.durable); extra > 0 && bytes.HasPrefix(f.now, f.durable) {
			f.now = f.now[:len(f.durable)+r.IntN(extra+1)]
		} else {
			f.now = f.durable
		}
		f.durable = bytes.Clone(f.now)
	}
}

func (f *ramFile) ReadAt(p []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if at >= int64(len(f.now)) {
		return 0, io.EOF
	}
	n := copy(p, f.now[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *ramFile) WriteAt(p []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	grown := make([]byte, max(len(f.now), int(at)+len(p)))
	copy(grown, f.now)
	copy(grown[at:], p)
	f.now = grown
	return len(p), nil
}

func (f *ramFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.durable = bytes.Clone(f.now)
	return nil
}

func (f *ramFile) Truncate(n int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.now = bytes.Clone(f.now[:min(int(n), len(f.now))])
	return nil
}

func (f *ramFile) Size() (int64, error) { return int64(len(f.now)), nil }
func (f *ramFile) Close() error         { return nil }

// place is one node: its disk and, while it runs, its store.
type place struct {
	copy  logs.Copy
	disk  *ram
	store *logs.Store
	rep   *logs.Replicator
}

// drama is one log and the nodes that hold it, over many failovers.
type drama struct {
	t      *testing.T
	rand   *rand.Rand
	dir    string
	wire   *wire
	places []*place
	key    logs.Key

	// The replicated state.
	epoch  uint64
	copies []logs.Copy
	owner  *place

	mu    sync.Mutex
	shown []byte // the bytes that any reader has seen
}

func (d *drama) start(p *place) {
	p.store = mustOpen(d.t, logs.Options{Dir: d.dir, FS: p.disk, SegmentBytes: 2000, Grown: func(k logs.Key) {
		if p.rep != nil {
			p.rep.Grown(k)
		}
	}})
	p.rep = logs.NewReplicator(p.store, p.copy, d.wire, slog.New(slog.DiscardHandler))
	d.wire.mu.Lock()
	d.wire.to[p.copy] = p.store
	d.wire.mu.Unlock()
}

func (d *drama) stop(p *place) {
	d.wire.mu.Lock()
	delete(d.wire.to, p.copy)
	d.wire.mu.Unlock()
	p.rep.Close()
	if err := p.store.Close(); err != nil {
		d.t.Error(err)
	}
}

// saw checks that a reader has seen the same bytes as all others.
func (d *drama) saw(who string, chunk []byte, at int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at > int64(len(d.shown)) {
		d.t.Errorf("%s was shown offset %d before any reader saw %d", who, at, len(d.shown))
		return
	}
	old := d.shown[at:min(int(at)+len(chunk), len(d.shown))]
	if !bytes.Equal(old, chunk[:len(old)]) {
		d.t.Errorf("%s was shown %q at %d, others %q", who, chunk[:len(old)], at, old)
	}
	d.shown = append(d.shown, chunk[len(old):]...)
}

// read follows the log on a node until ctx ends.
func (d *drama) read(ctx context.Context, p *place, store *logs.Store) {
	for ctx.Err() == nil {
		r, err := store.Reader(ctx, d.key, 0)
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		for {
			chunk, at, err := r.Next(ctx)
			if err != nil {
				break
			}
			d.saw("a reader on node "+p.copy.Node, chunk, at)
		}
		_ = r.Close()
		if ctx.Err() != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (d *drama) place(c logs.Copy) *place {
	for _, p := range d.places {
		if p.copy == c {
			return p
		}
	}
	return nil
}

func (d *drama) other(c logs.Copy) logs.Copy {
	for _, x := range d.copies {
		if x != c {
			return x
		}
	}
	return c
}

// scene is the time of one owner: it writes, a copy may be replaced, and then the owner is killed
// or cut off from the network.
func (d *drama) scene() {
	p, epoch := d.owner, d.epoch
	w, err := p.store.Create(d.key, epoch, nil, true)
	if err != nil {
		d.t.Fatalf("the owner of epoch %d: %v", d.epoch, err)
	}
	base, err := p.store.Durable(d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	feed := p.rep.Start(d.key, d.epoch, d.copies, base)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var all sync.WaitGroup
	for _, q := range d.places {
		if d.wire.reachable(q.copy) {
			store := q.store
			all.Go(func() { d.read(ctx, q, store) })
		}
	}
	all.Go(func() { // the workload
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := w.Write(fmt.Appendf(nil, "epoch %d line %d\n", epoch, i)); err != nil {
				return
			}
			time.Sleep(time.Duration(d.chance(4)) * time.Millisecond)
		}
	})
	time.Sleep(time.Duration(10+d.chance(200)) * time.Millisecond)
	if d.chance(3) == 0 {
		d.replace(feed)
	}
	replica := d.place(d.other(p.copy))
	switch d.chance(3) {
	case 0: // the process is killed, or power fails
		stop()
		all.Wait()
		feed.Close()
		d.stop(p)
		p.disk.powerLoss(d.rand)
		d.takeOver(replica)
		d.start(p)
	case 1: // cut off: it continues to write, and its readers continue to read
		d.wire.set(replica.copy, true)
		time.Sleep(time.Duration(d.chance(50)) * time.Millisecond)
		d.takeOver(replica)
		d.wire.set(replica.copy, false)
		time.Sleep(time.Duration(d.chance(50)) * time.Millisecond)
		stop()
		all.Wait()
		feed.Close()
	case 2: // power fails on both nodes, and the replica is back first
		stop()
		all.Wait()
		feed.Close()
		for _, q := range []*place{p, replica} {
			d.stop(q)
			q.disk.powerLoss(d.rand)
			d.start(q)
		}
		d.takeOver(replica)
	}
}

// chance returns a random number below n.
func (d *drama) chance(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.IntN(n)
}

// takeOver makes another holder of a copy the owner.
func (d *drama) takeOver(p *place) {
	d.epoch++
	if _, _, err := p.store.Fence(d.key, d.epoch); err != nil {
		d.t.Fatalf("fence at epoch %d: %v", d.epoch, err)
	}
	d.owner = p
}

// replace replaces the replica by a copy on the third node.
func (d *drama) replace(feed *logs.Feed) {
	var next logs.Copy
	for _, p := range d.places {
		if p.copy != d.copies[0] && p.copy != d.copies[1] {
			next = p.copy
		}
	}
	gone := d.other(d.owner.copy)
	d.wire.set(gone, true)
	feed.Join(next)
	for range 2000 {
		status, _ := feed.Status()
		for _, s := range status {
			if s.Copy == next && s.Current {
				feed.Count(next)
				d.copies = []logs.Copy{d.owner.copy, next}
				time.Sleep(time.Duration(d.chance(10)) * time.Millisecond) // the time of the commit
				feed.Set(d.copies)
				d.wire.set(gone, false)
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
	status, _ := feed.Status()
	d.t.Errorf("epoch %d: node %s did not catch up: %+v", d.epoch, next.Node, status)
	d.wire.set(gone, false)
}

// Test_Simulation kills and cuts off the owners of logs again and again. No byte that a reader has
// seen may change or vanish.
func Test_Simulation(t *testing.T) {
	const scenes = 30
	done, bytesShown := 0, 0
	begin := time.Now()
	for seed := uint64(1); done < *failoversFlag; seed++ {
		synctest.Test(t, func(t *testing.T) {
			d := &drama{
				t: t, rand: rand.New(rand.NewPCG(seed, 7)), dir: t.TempDir(), epoch: 1, key: key,
				wire: &wire{to: map[logs.Copy]*logs.Store{}, down: map[logs.Copy]bool{}},
			}
			for _, c := range []logs.Copy{nodeA, nodeB, nodeC} {
				p := &place{copy: c, disk: &ram{files: map[string]*ramFile{}}}
				d.places = append(d.places, p)
				d.start(p)
			}
			d.owner, d.copies = d.places[0], []logs.Copy{nodeA, nodeB}
			for range scenes {
				d.scene()
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			// The sealed log is the same on all nodes, and contains everything that readers have
			// seen.
			n, _, err := d.owner.store.Fence(d.key, d.epoch+1)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.owner.store.Complete(d.key, n); err != nil {
				t.Fatal(err)
			}
			if got := readTo(t, d.owner.store, d.key, 0, all); !bytes.HasPrefix(got, d.shown) {
				t.Errorf("seed %d: the sealed log does not begin with the %d bytes that were shown", seed, len(d.shown))
			}
			bytesShown += len(d.shown)
			for _, p := range d.places {
				d.stop(p)
			}
		})
		done += scenes
	}
	if bytesShown == 0 {
		t.Error("nothing was shown")
	}
	t.Logf("%d failovers, %d bytes shown, in %s", done, bytesShown, time.Since(begin).Round(time.Millisecond))
}
