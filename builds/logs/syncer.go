package logs

import (
	"sync"
	"time"
)

// syncWorkers is how many logs are fsynced at a time.
const syncWorkers = 8

// syncer is the goroutine that brings pending output to the disk: all logs
// that have some, one fsync each, and one of the directory for all new files.
type syncer struct {
	store  *Store
	wake   chan struct{} // capacity 1
	urgent chan struct{} // capacity 1
	ending chan struct{}
	done   chan struct{}

	mu   sync.Mutex
	todo map[*Writer]bool
}

func (s *syncer) start(store *Store) {
	s.store = store
	s.wake, s.urgent = make(chan struct{}, 1), make(chan struct{}, 1)
	s.ending, s.done = make(chan struct{}), make(chan struct{})
	s.todo = map[*Writer]bool{}
	go s.run()
}

// stop flushes once more and ends the goroutine.
func (s *syncer) stop() {
	select {
	case <-s.ending:
	default:
		close(s.ending)
	}
	<-s.done
}

// dirty tells that a writer has pending output; urgent, that somebody waits.
func (s *syncer) dirty(w *Writer, urgent bool) {
	s.mu.Lock()
	s.todo[w] = true
	s.mu.Unlock()
	tell := func(c chan struct{}) {
		select {
		case c <- struct{}{}:
		default:
		}
	}
	if urgent {
		tell(s.urgent)
	}
	tell(s.wake)
}

func (s *syncer) run() {
	defer close(s.done)
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-s.ending:
			s.flush()
			return
		case <-s.wake:
		}
		t.Reset(s.store.o.SyncInterval)
		select { // gather what comes in the meantime
		case <-t.C:
		case <-s.urgent:
		case <-s.ending:
		}
		s.flush()
	}
}

func (s *syncer) flush() {
	s.mu.Lock()
	todo := s.todo
	s.todo = map[*Writer]bool{}
	s.mu.Unlock()
	if len(todo) == 0 {
		return
	}
	began := time.Now()
	type result struct {
		w   *Writer
		p   pending
		err error
	}
	results := make(chan result, len(todo))
	work := make(chan *Writer)
	var wg sync.WaitGroup
	for range min(syncWorkers, len(todo)) {
		wg.Go(func() {
			for w := range work {
				p, err := w.flush()
				results <- result{w, p, err}
			}
		})
	}
	for w := range todo {
		work <- w
	}
	close(work)
	wg.Wait()
	close(results)
	var all []result
	created := false
	for r := range results {
		created = created || r.w.dir
		all = append(all, r)
	}
	var dirErr error
	if created {
		dirErr = s.store.fs.SyncDir(s.store.o.Dir)
	}
	for _, r := range all {
		switch {
		case r.err != nil:
			s.store.note(spaceError(r.err))
			s.store.o.Logger.Error("cannot write a log", "build", r.w.l.key.Build, "attempt", r.w.l.key.Attempt, "err", r.err)
		case dirErr != nil:
			s.store.o.Logger.Error("cannot fsync the directory of logs", "err", dirErr)
			r.w.unflush(r.p, dirErr)
		default:
			r.w.dir = false
			if len(r.p.records) > 0 {
				s.store.wrote()
				r.w.show(r.p)
				s.store.metrics.bytes.Add(float64(len(r.p.data)))
			}
		}
		r.w.notifyFlushed()
	}
	s.store.metrics.sync.Observe(time.Since(began).Seconds())
}
