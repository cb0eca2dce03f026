// Package fsm connects Raft to the replicated state: it applies the commands of the log, restores
// and captures the state, and replaces a wrong state by that of another node. It proposes nothing
// and calls no other node.
package fsm

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/internal/inflight"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// FSM connects Raft to the state machine. It counts the applied commands for callers that wait for
// one, and stops for good at a command that this binary does not understand.
type FSM struct {
	opts  Options
	fatal chan error // capacity 1

	applying inflight.Ops // commands that are being applied, at most one

	mu sync.Mutex
	// applied is the index of the last applied command. It is its index in Raft's log plus offset:
	// a restored state may have greater indexes than the log, and an index never goes back.
	applied  uint64
	offset   uint64
	lastTerm uint64        // term of the last applied command
	advanced chan struct{} // closed when applied grows; nil if there is no waiter
	broken   error
	stopped  chan struct{}           // closed when broken is set
	waiting  map[uint64]chan Applied // by Command.Proposal; capacity 1 each
	restored chan struct{}           // closed when a snapshot replaces the state
	epoch    uint64                  // how often the state was replaced

	// working is full while an entry is applied or the state is replaced or captured; capacity 1.
	// It guards the fields below.
	working   chan struct{}
	last      uint64 // index in Raft's log of the last entry that Apply has seen
	held      bool   // the state is that of the entry heldAt, and no further entry is applied
	heldAt    uint64
	contained uint64 // index in Raft's log up to which the state of another node has contained all entries
}

var _ raft.FSM = (*FSM)(nil)

// Options describes the state of a node.
type Options struct {
	Machine StateMachine
	// Origin is the server id of this node.
	Origin string
	// Level is the greatest feature level that this binary can apply.
	Level uint32
	// RestoreData returns the snapshot that the command at an index of Raft's log names, or, if
	// later is true, a later state, which contains that entry. The FSM stops at an error, and
	// reports it on Fatal unless it wraps ErrStopsApplying.
	RestoreData func(ref *clusterv1.SnapshotRef, index uint64) (raw []byte, later bool, err error)
	// Wrong returns why the state should not be stored in a snapshot, or nil. May be nil.
	Wrong func() error
}

// New returns the FSM for Raft.
func New(o Options) *FSM {
	return &FSM{opts: o, fatal: make(chan error, 1), waiting: map[uint64]chan Applied{}, stopped: make(chan struct{}), restored: make(chan struct{}), working: make(chan struct{}, 1)}
}

// Expect returns a channel that receives the result of this node's proposal with the given number
// once it is applied here. The caller calls the returned function when it no longer waits.
func (f *FSM) Expect(proposal uint64) (<-chan Applied, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan Applied, 1)
	f.waiting[proposal] = c
	return c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.waiting, proposal)
	}
}

func (f *FSM) deliver(proposal uint64, res Applied) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.waiting[proposal]; c != nil {
		c <- res
		delete(f.waiting, proposal)
	}
}

// Failed returns the error at which the FSM has stopped, or nil.
func (f *FSM) Failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

// stopAt records err, after which no command is applied any more, and wakes all waiters.
func (f *FSM) stopAt(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken == nil {
		close(f.stopped)
	}
	f.broken = err
	return err
}

// fail is stopAt, and reports err on fatal.
func (f *FSM) fail(err error) error {
	_ = f.stopAt(err)
	select {
	case f.fatal <- err:
	default:
	}
	return err
}

// Stopped returns a channel that is closed when the FSM stops.
func (f *FSM) Stopped() <-chan struct{} { return f.stopped }

// Fatal returns a channel that delivers the error at which the node must stop.
func (f *FSM) Fatal() <-chan error { return f.fatal }

// Applying returns for how long a command is being applied; 0 if none is.
func (f *FSM) Applying() time.Duration { return f.applying.Oldest() }

func (f *FSM) advance(index, term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied, f.lastTerm = max(f.applied, index), max(f.lastTerm, term)
	if f.advanced != nil {
		close(f.advanced)
		f.advanced = nil
	}
}

// Index returns the index of the last applied command.
func (f *FSM) Index() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// Position returns the index of the last applied command, and by how much it is greater than the
// index of that command in Raft's log.
func (f *FSM) Position() (applied, offset uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied, f.offset
}

// Term returns the term of the last applied command; 0 if this process has applied none.
func (f *FSM) Term() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastTerm
}

// Wait blocks until the command at index is applied. It returns an error if ctx ends or the state
// machine stops first.
func (f *FSM) Wait(ctx context.Context, index uint64) error {
	for {
		f.mu.Lock()
		if f.applied >= index {
			f.mu.Unlock()
			return nil
		}
		if f.broken != nil {
			f.mu.Unlock()
			return f.broken
		}
		if f.advanced == nil {
			f.advanced = make(chan struct{})
		}
		advanced := f.advanced
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for index %d: %w", index, ctx.Err())
		case <-f.stopped:
		case <-advanced:
		}
	}
}
