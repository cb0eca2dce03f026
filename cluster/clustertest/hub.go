// Package clustertest connects the nodes of a cluster within one process, so that the whole cluster
// runs under testing/synctest. Messages take simulated time, tests can lose, delay and hold them,
// and no socket is opened.
package clustertest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// Hub is the network of a cluster within one process.
type Hub struct {
	// Timeout is the time after which a lost message fails.
	Timeout time.Duration
	// Delay is the greatest time that a message takes; the actual time is random.
	Delay time.Duration

	mu      sync.Mutex
	rand    *rand.Rand
	byAddr  map[string]*Network
	cut     map[[2]string]bool // key: names of sender and receiver
	refuse  map[[2]string]bool // key: names of caller and callee
	paused  map[string]chan struct{}
	held    map[string]chan struct{} // key: name of the receiver
	lose    float64
	changed chan struct{}
}

// NewHub returns a network without faults. seed determines all random decisions.
func NewHub(seed uint64) *Hub {
	return &Hub{
		Timeout: 500 * time.Millisecond, Delay: 2 * time.Millisecond, rand: rand.New(rand.NewPCG(seed, 1)),
		byAddr: map[string]*Network{}, cut: map[[2]string]bool{}, refuse: map[[2]string]bool{},
		paused: map[string]chan struct{}{}, held: map[string]chan struct{}{}, changed: make(chan struct{}),
	}
}

// Cut loses all messages from one node to another, in this direction only.
func (h *Hub) Cut(from, to string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut[[2]string{from, to}] = true
}

// Refuse refuses all connections that one node opens to another, and closes the present ones, like
// a firewall that rejects. Both nodes notice the end of the connections.
func (h *Hub) Refuse(from, to string) {
	h.mu.Lock()
	h.refuse[[2]string{from, to}] = true
	ends := map[string]*Network{}
	for _, n := range h.byAddr {
		ends[n.name] = n
	}
	h.mu.Unlock()
	if a, b := ends[from], ends[to]; a != nil && b != nil {
		a.local.Lost(raft.ServerID(b.local.Identity().GetServerId()))
		b.local.Lost(raft.ServerID(a.local.Identity().GetServerId()))
	}
}

// Part loses all messages between the nodes of a and those of b.
func (h *Hub) Part(a, b []string) {
	for _, x := range a {
		for _, y := range b {
			h.Cut(x, y)
			h.Cut(y, x)
		}
	}
}

// Lose loses each message with a probability between 0 and 1.
func (h *Hub) Lose(probability float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lose = probability
}

// Pause holds all messages from and to a node until Resume. For the others the node looks like a
// stopped process, but its own timers continue.
func (h *Hub) Pause(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.paused[node] == nil {
		h.paused[node] = make(chan struct{})
	}
}

// Hold holds all messages to a node until Resume, so that the responses to its calls stay in
// flight. A stopped process finds such messages in the buffers of its sockets when it continues.
// Its own timers continue, so a test that resumes it before they end shows the behaviour of a
// process that was stopped for any length of time.
func (h *Hub) Hold(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held[node] == nil {
		h.held[node] = make(chan struct{})
	}
}

// Resume delivers the messages that Pause and Hold have held.
func (h *Hub) Resume(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, held := range []map[string]chan struct{}{h.paused, h.held} {
		if c := held[node]; c != nil {
			close(c)
			delete(held, node)
		}
	}
}

// Heal ends all faults.
func (h *Hub) Heal() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut, h.refuse = map[[2]string]bool{}, map[[2]string]bool{}
	h.lose = 0
	for _, held := range []map[string]chan struct{}{h.paused, h.held} {
		for n, c := range held {
			close(c)
			delete(held, n)
		}
	}
}

var (
	errLost    = errors.New("clustertest: the message was lost")
	errRefused = errors.New("clustertest: connection refused")
)

// pass takes the time that a message from one node to another takes. It returns errLost if the
// message is lost.
func (h *Hub) pass(ctx context.Context, from, to string) error {
	for {
		h.mu.Lock()
		var held chan struct{}
		for _, n := range []string{from, to} {
			if c := h.paused[n]; c != nil {
				held = c
			}
		}
		if c := h.held[to]; c != nil {
			held = c
		}
		lost := h.cut[[2]string{from, to}] || h.lose > 0 && h.rand.Float64() < h.lose
		delay := time.Duration(h.rand.Int64N(int64(h.Delay) + 1))
		h.mu.Unlock()
		switch {
		case held != nil:
			select {
			case <-held:
			case <-ctx.Done():
				return ctx.Err()
			}
		case lost:
			_ = sleep(ctx, h.Timeout)
			return errLost
		default:
			return sleep(ctx, delay)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// refused is the error of a connection to a closed port.
type refused struct{}

func (refused) Error() string { return errRefused.Error() }

// Is reports that the error is ECONNREFUSED.
func (refused) Is(target error) bool { return target == syscall.ECONNREFUSED }

// SetDelay changes Delay while nodes run.
func (h *Hub) SetDelay(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Delay = d
}
