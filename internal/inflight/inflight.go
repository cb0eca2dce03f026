// Package inflight measures how long operations that have begun take, so that a disk that never
// finishes a write is noticed. It does not end an operation.
package inflight

import (
	"sync"
	"time"
)

// Ops are the operations in progress. The zero value is ready to use. It is safe for concurrent use.
type Ops struct {
	mu    sync.Mutex
	last  uint64
	begun map[uint64]time.Time
}

// Begin records the start of an operation. The caller calls end when the operation returns.
func (o *Ops) Begin() (end func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.begun == nil {
		o.begun = map[uint64]time.Time{}
	}
	o.last++
	id := o.last
	o.begun[id] = time.Now()
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.begun, id)
	}
}

// Oldest returns the age of the oldest operation in progress; 0 if there is none.
func (o *Ops) Oldest() (age time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range o.begun {
		age = max(age, time.Since(t))
	}
	return age
}
