package builds

import "sync"

// signal tells any number of waiters that something has changed.
type signal struct{ state *signalState }

type signalState struct {
	mu sync.Mutex
	ch chan struct{}
}

func newSignal() signal { return signal{&signalState{ch: make(chan struct{})}} }

// fire closes the channel that next returned.
func (s signal) fire() {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	close(s.state.ch)
	s.state.ch = make(chan struct{})
}

// next returns a channel that the next call of fire closes.
func (s signal) next() <-chan struct{} {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return s.state.ch
}
