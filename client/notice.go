package client

import (
	"sync"
	"time"
)

// noticeAfter is how long a call waits for a server before Options.Waiting is called.
const noticeAfter = time.Second

// notice calls Options.Waiting for one call. A server that responds slowly does not count, because
// calls may wait for a build. Without Options.Waiting, notice does nothing.
type notice struct {
	waiting func(error)
	ready   func() bool // reports whether there is a connection to a server
	timer   *time.Timer

	mu   sync.Mutex
	last error // of the last server
	done bool
}

func newNotice(waiting func(error), ready func() bool) *notice {
	n := &notice{waiting: waiting, ready: ready}
	if waiting != nil {
		n.timer = time.AfterFunc(noticeAfter, n.tell)
	}
	return n
}

// tell calls Options.Waiting unless the call is in progress on a server.
func (n *notice) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.done || n.last == nil && n.ready() {
		return
	}
	n.done = true
	n.waiting(n.last)
}

// failed records that a server is unavailable. The first failure of a call that was in progress begins
// the wait.
func (n *notice) failed(err error) {
	if n.timer == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last == nil {
		n.timer.Reset(noticeAfter)
	}
	n.last = err
}

// stop ends the notice. Waiting is not called after it.
func (n *notice) stop() {
	if n.timer == nil {
		return
	}
	n.timer.Stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.done = true
}
