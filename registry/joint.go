package registry

import (
	"context"
	"sync"
)

// joints let those who want the same long work at the same time share it. Work
// ends early only when all who wanted it have left.
type joints[T any] struct {
	flights *flights // owns the goroutines

	mu   sync.Mutex
	work map[string]*joint[T]
}

type joint[T any] struct {
	cancel  context.CancelFunc
	waiting int
	done    chan struct{}
	val     T // once done
	err     error
}

func newJoints[T any](f *flights) *joints[T] {
	return &joints[T]{flights: f, work: map[string]*joint[T]{}}
}

// do calls fn, or waits for the call of another with the same key.
func (j *joints[T]) do(ctx context.Context, key string, fn func(context.Context) (T, error)) (T, error) {
	var zero T
	j.mu.Lock()
	w := j.work[key]
	if w == nil {
		if !j.flights.begin() {
			j.mu.Unlock()
			return zero, &kindError{kind: Unavailable, text: "the registry client is closed"}
		}
		w = &joint[T]{done: make(chan struct{})}
		var work context.Context
		work, w.cancel = context.WithCancel(j.flights.ctx)
		j.work[key] = w
		go j.run(work, key, w, fn)
	}
	w.waiting++
	j.mu.Unlock()
	select {
	case <-w.done:
		return w.val, w.err
	case <-ctx.Done():
	}
	j.mu.Lock()
	w.waiting--
	last := w.waiting == 0
	if last {
		w.cancel()
		j.remove(key, w)
	}
	j.mu.Unlock()
	if last {
		<-w.done // nothing of ours is under way when we return
	}
	return zero, ctx.Err()
}

func (j *joints[T]) run(ctx context.Context, key string, w *joint[T], fn func(context.Context) (T, error)) {
	defer j.flights.running.Done()
	defer w.cancel()
	w.val, w.err = guarded(ctx, fn)
	j.mu.Lock()
	j.remove(key, w)
	j.mu.Unlock()
	close(w.done)
}

func (j *joints[T]) remove(key string, w *joint[T]) {
	if j.work[key] == w {
		delete(j.work, key)
	}
}
