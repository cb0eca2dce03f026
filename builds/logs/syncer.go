package logs

import (
	"sync"
	"time"
)

// syncWorkers is the number of logs that are fsynced at the same time.
const syncWorkers = 8

func (s *syncer) start(store *Store) {
	s.store = store
	s.wake, s.urgent = make(chan struct{}, 1), make(chan struct{}, 1)
	s.stopping, s.done = make(chan struct{}), make(chan struct{})
	s.todo = map[*Writer]bool{}
	go s.run()
}

// stop flushes once more and waits for the end of the goroutine.
func (s *syncer) stop() {
	select {
	case <-s.stopping:
	default:
		close(s.stopping)
	}
	<-s.done
}

// dirty queues a writer with pending output. urgent means that a caller waits for the flush.
func (s *syncer) dirty(w *Writer, urgent bool) {
	s.mu.Lock()
	s.todo[w] = true
	s.mu.Unlock()
	signal := func(c chan struct{}) {
		select {
		case c <- struct{}{}:
		default:
		}
	}
	if urgent {
		signal(s.urgent)
	}
	signal(s.wake)
}

func (s *syncer) run() {
	defer close(s.done)
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-s.stopping:
			s.flush()
			return
		case <-s.wake:
		}
		t.Reset(s.store.opts.SyncInterval)
		select { // collect more output until SyncInterval is over
		case <-t.C:
		case <-s.urgent:
		case <-s.stopping:
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
		created = created || r.w.dirDirty
		all = append(all, r)
	}
	var dirErr error
	if created {
		dirErr = s.store.fs.SyncDir(s.store.opts.Dir)
	}
	for _, r := range all {
		switch {
		case r.err != nil:
			s.store.setProblem(spaceError(r.err))
			s.store.opts.Logger.Error("cannot write a log", "build", r.w.l.key.Build, "attempt", r.w.l.key.Attempt, "err", r.err)
		case dirErr != nil:
			s.store.opts.Logger.Error("cannot fsync the directory of logs", "err", dirErr)
			r.w.unflush(r.p, dirErr)
		default:
			r.w.dirDirty = false
			if len(r.p.records) > 0 {
				s.store.wrote()
				r.w.publish(r.p)
				s.store.metrics.bytes.Add(float64(len(r.p.data)))
			}
		}
		r.w.notifyFlushed()
	}
	s.store.metrics.sync.Observe(time.Since(began).Seconds())
}
