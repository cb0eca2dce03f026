package cluster

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// fsm is the thin adapter between Raft and the state machine. It counts what
// was applied, for those who wait, and stops applying for good at a command
// that this binary does not understand.
type fsm struct {
	sm    StateMachine
	fatal chan error // capacity 1

	origin string // server id of this node

	mu      sync.Mutex
	applied uint64
	grown   chan struct{} // closed when applied grows; nil if nobody waits
	broken  error
	waiting map[uint64]chan Applied // by number of proposal; capacity 1 each
	renewed chan struct{}           // closed when a snapshot replaces the state
}

var _ raft.FSM = (*fsm)(nil)

func newFSM(sm StateMachine, origin string) *fsm {
	return &fsm{sm: sm, origin: origin, fatal: make(chan error, 1), waiting: map[uint64]chan Applied{}, renewed: make(chan struct{})}
}

// expect answers where the result of this node's proposal of that number will
// arrive when it is applied here, and what ends the wait.
func (f *fsm) expect(proposal uint64) (<-chan Applied, func()) {
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

// Apply applies one entry of the log.
func (f *fsm) Apply(l *raft.Log) any {
	if f.failed() != nil {
		return f.failed()
	}
	cmd := new(clusterv1.Command)
	if err := proto.Unmarshal(l.Data, cmd); err != nil {
		return f.fail(fmt.Errorf("command at index %d cannot be decoded: %w", l.Index, err))
	}
	res := f.sm.Apply(l.Index, cmd)
	if err, ok := res.(interface {
		error
		Fatal() bool
	}); ok && err.Fatal() {
		return f.fail(err)
	}
	f.advance(l.Index)
	if cmd.GetOrigin() == f.origin {
		f.deliver(cmd.GetProposal(), Applied{Index: l.Index, Result: res})
	}
	return res
}

func (f *fsm) deliver(proposal uint64, res Applied) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.waiting[proposal]; c != nil {
		c <- res
		delete(f.waiting, proposal)
	}
}

func (f *fsm) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

// fail stops the state at the last command that was understood.
func (f *fsm) fail(err error) error {
	f.mu.Lock()
	f.broken = err
	f.mu.Unlock()
	select {
	case f.fatal <- err:
	default:
	}
	return err
}

func (f *fsm) advance(index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = max(f.applied, index)
	if f.grown != nil {
		close(f.grown)
		f.grown = nil
	}
}

func (f *fsm) index() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// wait blocks until the command at index is applied.
func (f *fsm) wait(ctx context.Context, index uint64) error {
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
		if f.grown == nil {
			f.grown = make(chan struct{})
		}
		grown := f.grown
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for index %d: %w", index, ctx.Err())
		case <-grown:
		}
	}
}

// Snapshot pins the state.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.failed(); err != nil {
		return nil, err
	}
	w, err := f.sm.Snapshot()
	if err != nil {
		return nil, err
	}
	return fsmSnapshot{w, f.index()}, nil
}

// Restore replaces the state by a snapshot of the leader or of the disk.
func (f *fsm) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	index, err := readSnapshot(rc, f.sm.Restore)
	if err != nil {
		return err
	}
	f.advance(index)
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.renewed)
	f.renewed = make(chan struct{})
	return nil
}

// replaced is closed when a snapshot replaces the state: who waits for an
// entry will not see it applied.
func (f *fsm) replaced() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.renewed
}

type fsmSnapshot struct {
	state io.WriterTo
	index uint64
}

// Persist writes the pinned state.
func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := writeSnapshot(sink, s.index, s.state); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release has nothing to give back.
func (s fsmSnapshot) Release() {}
