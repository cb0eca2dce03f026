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

var replacementsFlag = flag.Int("logs.replacements", 300, "how many replacements of copies to simulate")

// Test_Incarnation_Simulation replaces copies again and again while requests are delayed beyond
// their timeout, so that they arrive after those of later replacements. Then the owner is lost. The
// remaining copy must hold every byte that a reader has seen.
func Test_Incarnation_Simulation(t *testing.T) {
	const takeovers, replacements = 5, 6
	done, shown, late := 0, 0, 0
	for seed := uint64(1); done < *replacementsFlag; seed++ {
		synctest.Test(t, func(t *testing.T) {
			s := newLateDrama(t, seed)
			for range takeovers {
				s.term(replacements)
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			s.end()
			shown, late = shown+len(s.shown), late+s.delayed
		})
		done += takeovers * replacements
	}
	if t.Logf("%d replacements, %d bytes shown, %d requests late", done, shown, late); shown == 0 || late == 0 {
		t.Error("the simulation shows nothing")
	}
}

// lateDrama is a drama on a lateNet.
type lateDrama struct {
	*drama
	net     *lateNet
	delayed int
}

func newLateDrama(t *testing.T, seed uint64) *lateDrama {
	s := &lateDrama{drama: &drama{t: t, rand: rand.New(rand.NewPCG(seed, 21)), dir: t.TempDir(), key: key, epoch: 1}}
	s.net = &lateNet{wire: &wire{to: map[logs.Copy]*logs.Store{}, down: map[logs.Copy]bool{}}}
	s.net.delay = func() (request, response time.Duration) {
		if s.chance(6) > 0 {
			return time.Duration(s.chance(5)) * time.Millisecond, 0
		}
		s.mu.Lock()
		s.delayed++
		s.mu.Unlock()
		return time.Duration(s.chance(60_000)) * time.Millisecond, 0
	}
	for _, c := range []logs.Copy{nodeA, nodeB, nodeC} {
		p := &place{copy: c, disk: &ram{files: map[string]*ramFile{}}}
		p.store = mustOpen(t, logs.Options{Dir: s.dir, FS: p.disk, SegmentBytes: 500, Grown: func(k logs.Key) { p.rep.Grown(k) }})
		p.rep = logs.NewReplicator(p.store, c, s.net, slog.New(slog.DiscardHandler))
		s.net.to[c] = p.store
		s.places = append(s.places, p)
	}
	s.owner, s.copies = s.places[0], []logs.Copy{nodeA, nodeB}
	return s
}

// term is the time of one owner, which replaces its copy n times.
func (s *lateDrama) term(n int) {
	w, err := s.owner.store.Create(s.key, s.epoch, nil, true)
	if err != nil {
		s.t.Fatal(err)
	}
	base, err := s.owner.store.Durable(s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	feed := s.owner.rep.Start(s.key, s.epoch, s.copies, base)
	ctx, stop := context.WithCancel(s.t.Context())
	defer stop()
	var all sync.WaitGroup
	for _, p := range s.places {
		all.Go(func() { s.read(ctx, p, p.store) })
	}
	all.Go(func() { // the workload
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := w.Write(fmt.Appendf(nil, "epoch %d line %d\n", s.epoch, i)); err != nil {
				return
			}
			time.Sleep(time.Duration(s.chance(2000)) * time.Millisecond)
		}
	})
	for range n {
		time.Sleep(time.Duration(s.chance(12_000)) * time.Millisecond)
		s.replaceLate(feed)
	}
	stop()
	all.Wait()
	feed.Close()
	s.epoch++
	next := s.place(s.other(s.owner.copy))
	length, _, err := next.store.Fence(s.key, s.epoch)
	if err != nil {
		s.t.Fatal(err)
	}
	if held := s.durable(next, length); !bytes.HasPrefix(held, s.shown) {
		s.t.Errorf("node %s holds %d bytes, but readers saw %d", next.copy.Node, len(held), len(s.shown))
	}
	s.owner = next
}

// durable returns the bytes of the copy on a node, shown or not.
func (s *lateDrama) durable(p *place, length int64) []byte {
	if length == 0 {
		return nil
	}
	p.store.Show(s.key, length)
	return readTo(s.t, p.store, s.key, 0, length)
}

// replaceLate replaces the copy by the third node, or gives up after a while.
func (s *lateDrama) replaceLate(feed *logs.Feed) {
	var next logs.Copy
	for _, p := range s.places {
		if p.copy != s.copies[0] && p.copy != s.copies[1] {
			next = p.copy
		}
	}
	feed.Join(next)
	for range s.chance(200) {
		time.Sleep(100 * time.Millisecond)
		status, _ := feed.Status()
		for _, c := range status {
			if c.Copy != next || !c.Current {
				continue
			}
			feed.Count(next)
			if now, _ := feed.Status(); !current(now, next) {
				continue
			}
			s.copies = []logs.Copy{s.owner.copy, next}
			time.Sleep(time.Duration(s.chance(10)) * time.Millisecond) // the time of the commit
			feed.Set(s.copies)
			return
		}
	}
	feed.Drop(next)
	feed.Set(s.copies)
}

func current(status []logs.CopyStatus, c logs.Copy) bool {
	for _, s := range status {
		if s.Copy == c {
			return s.Current
		}
	}
	return false
}

func (s *lateDrama) end() {
	for _, p := range s.places {
		p.rep.Close()
	}
	s.net.late.Wait()
	for _, p := range s.places {
		_ = p.store.Close()
	}
}
