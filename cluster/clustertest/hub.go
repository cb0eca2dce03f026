// Package clustertest connects nodes of one process, so that a whole cluster
// runs under testing/synctest: messages take simulated time, are lost, delayed
// and held as a test says, and nothing opens a socket.
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

// Hub is the network of a cluster in one process.
type Hub struct {
	// Timeout is how long a message that is lost is waited for.
	Timeout time.Duration
	// Delay is the greatest time that a message takes.
	Delay time.Duration

	mu      sync.Mutex
	rand    *rand.Rand
	byID    map[raft.ServerID]*Network
	byAddr  map[string]*Network
	cut     map[[2]string]bool // from, to: by node name
	paused  map[string]chan struct{}
	lose    float64
	changed chan struct{}
}

// NewHub answers a network without faults. The seed decides what chance does.
func NewHub(seed uint64) *Hub {
	return &Hub{
		Timeout: 500 * time.Millisecond, Delay: 2 * time.Millisecond, rand: rand.New(rand.NewPCG(seed, 1)),
		byID: map[raft.ServerID]*Network{}, byAddr: map[string]*Network{}, cut: map[[2]string]bool{},
		paused: map[string]chan struct{}{}, changed: make(chan struct{}),
	}
}

// Cut loses all messages from one node to another: one way.
func (h *Hub) Cut(from, to string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut[[2]string{from, to}] = true
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

// Lose loses messages by chance: 0.1 is one of ten.
func (h *Hub) Lose(probability float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lose = probability
}

// Pause holds all messages from and to a node until Resume: to the others it
// looks like a process that was stopped, only that its own timers go on.
func (h *Hub) Pause(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.paused[node] == nil {
		h.paused[node] = make(chan struct{})
	}
}

// Resume lets the held messages go.
func (h *Hub) Resume(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.paused[node]; c != nil {
		close(c)
		delete(h.paused, node)
	}
}

// Heal ends all faults.
func (h *Hub) Heal() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut = map[[2]string]bool{}
	h.lose = 0
	for n, c := range h.paused {
		close(c)
		delete(h.paused, n)
	}
}

var (
	errLost    = errors.New("clustertest: the message was lost")
	errRefused = errors.New("clustertest: connection refused")
)

// pass takes a message from one node to another, as long as that takes.
func (h *Hub) pass(ctx context.Context, from, to string) error {
	for {
		h.mu.Lock()
		var held chan struct{}
		for _, n := range []string{from, to} {
			if c := h.paused[n]; c != nil {
				held = c
			}
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

// refused is how a closed port answers.
type refused struct{}

func (refused) Error() string { return errRefused.Error() }

// Is makes it the operating system's error.
func (refused) Is(target error) bool { return target == syscall.ECONNREFUSED }
