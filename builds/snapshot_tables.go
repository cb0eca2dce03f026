package builds

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// collectBuilds makes the trees of all builds of a new state gather their entries until loadBuilds is
// called.
func (s *State) collectBuilds() {
	for _, t := range []*tree[*entry]{s.builds.m, s.byRefAndID, s.created, s.byRef, s.byRequester, s.history, s.historyByRequester, s.logged} {
		t.collect()
	}
	s.published.collect()
}

// loadBuilds fills the trees, in several goroutines, which end with it.
func (s *State) loadBuilds() error {
	byRef := func(e *entry) uint64 { return e.ref }
	byCreation := func(e *entry) uint64 { return e.created }
	byEnd := func(e *entry) uint64 { return e.ended }
	byRequester := func(e *entry) uint64 { return textRank(e.requester.Value()) }
	var twice *entry
	work := make(chan func())
	var wg sync.WaitGroup
	for range decoders() {
		wg.Go(func() {
			for load := range work {
				load()
			}
		})
	}
	for _, load := range []func(){
		func() { s.byRequester.load(byRequester) }, // the ones that take longest are first
		func() { s.historyByRequester.load(byRequester) },
		func() { s.published.load(func(p publication) uint64 { return p.ref }) },
		func() { s.byRef.load(byRef) },
		func() { s.byRefAndID.load(byRef) },
		func() { s.created.load(byCreation) },
		func() { s.history.load(byEnd) },
		func() { s.logged.load(byEnd) },
		func() { twice, _ = s.builds.m.load(func(*entry) uint64 { return 0 }) }, // a snapshot is in order
	} {
		work <- load
	}
	close(work)
	wg.Wait()
	if twice != nil {
		return fmt.Errorf("read snapshot: build %s is there twice", twice.id())
	}
	return nil
}

// textRank returns a number that is greater for a text behind another one, unless both begin alike.
func textRank(s string) uint64 {
	var b [8]byte
	copy(b[:], s)
	return binary.BigEndian.Uint64(b[:])
}
