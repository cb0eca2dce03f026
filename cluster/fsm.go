package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/internal/inflight"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// fsm connects Raft to the state machine. It counts the applied commands for callers that wait for
// one, and stops for good at a command that this binary does not understand.
type fsm struct {
	sm    StateMachine
	fatal chan error // capacity 1

	applying inflight.Ops // commands that are being applied, at most one

	origin string // server id of this node
	level  uint32 // Config.FeatureLevel
	// restoreData returns the snapshot that the command at an index of Raft's log names, or, if
	// later is true, a later state, which contains that entry.
	restoreData func(ref *clusterv1.SnapshotRef, index uint64) (raw []byte, later bool, err error)

	mu sync.Mutex
	// applied is the index of the last applied command. It is its index in Raft's log plus offset: a
	// restored state may have greater indexes than the log, and an index never goes back.
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
	// wrong returns why the state should not be stored in a snapshot, or nil. It may be nil itself.
	wrong func() error
}

var _ raft.FSM = (*fsm)(nil)

func newFSM(sm StateMachine, origin string) *fsm {
	return &fsm{sm: sm, origin: origin, fatal: make(chan error, 1), waiting: map[uint64]chan Applied{}, stopped: make(chan struct{}), restored: make(chan struct{}), working: make(chan struct{}, 1)}
}

// expect returns a channel that receives the result of this node's proposal with the given number
// once it is applied here. The caller calls the returned function when it no longer waits.
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

// apply applies one entry of the log. The caller holds working.
func (f *fsm) apply(l *raft.Log) any {
	if f.failed() != nil {
		return f.failed()
	}
	cmd := new(clusterv1.Command)
	if err := proto.Unmarshal(l.Data, cmd); err != nil {
		return f.fail(fmt.Errorf("command at index %d cannot be decoded: %w", l.Index, err))
	}
	if cmd.GetRestore() != nil {
		return f.applyRestore(l, cmd)
	}
	_, offset := f.position()
	index := l.Index + offset
	applied := f.applying.Begin()
	res := f.sm.Apply(index, cmd)
	applied()
	if err, ok := res.(interface {
		error
		Fatal() bool
	}); ok && err.Fatal() {
		return f.fail(err)
	}
	f.advance(index, l.Term)
	done := Applied{Index: index, Result: res}
	if cmd.GetOrigin() == f.origin {
		f.deliver(cmd.GetProposal(), done)
	}
	return done
}

// applyRestore replaces the state by the snapshot that a command names. It waits for the snapshot
// and never skips it: without it, and without a later state of the leader, the node stops. Then it
// applies an empty command, which takes the state past every index that a caller may wait for, and
// its time and its feature level to those of the command at least.
func (f *fsm) applyRestore(l *raft.Log, cmd *clusterv1.Command) any {
	if level := cmd.GetFeatureLevel(); level > f.level {
		return f.fail(fmt.Errorf("the command at index %d restores a snapshot and needs feature level %d, this version knows %d: start the version that the cluster runs", l.Index, level, f.level))
	}
	raw, later, err := f.restoreData(cmd.GetRestore(), l.Index)
	if errors.Is(err, errStopsApplying) {
		return f.stopAt(err)
	}
	if err != nil {
		return f.fail(err)
	}
	if later {
		return f.skipTo(raw)
	}
	at, err := readSnapshot(bytes.NewReader(raw), f.sm.Restore)
	if err != nil {
		return f.fail(fmt.Errorf("restore the snapshot that the command at index %d names: %w", l.Index, err))
	}
	_, offset := f.position()
	index := max(l.Index+offset, at.index+1)
	f.mu.Lock()
	f.offset = index - l.Index
	f.epoch++
	f.mu.Unlock()
	res := f.sm.Apply(index, &clusterv1.Command{
		Ignorable: true, TimeUnixNano: cmd.GetTimeUnixNano(), Origin: cmd.GetOrigin(), FeatureLevel: cmd.GetFeatureLevel(), Restore: cmd.GetRestore(),
	})
	f.advance(index, l.Term)
	return Applied{Index: index, Result: res}
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

// stopAt records err, after which no command is applied any more, and wakes all waiters.
func (f *fsm) stopAt(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken == nil {
		close(f.stopped)
	}
	f.broken = err
	return err
}

// fail is stopAt, and reports err on fatal.
func (f *fsm) fail(err error) error {
	_ = f.stopAt(err)
	select {
	case f.fatal <- err:
	default:
	}
	return err
}

func (f *fsm) advance(index, term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied, f.lastTerm = max(f.applied, index), max(f.lastTerm, term)
	if f.advanced != nil {
		close(f.advanced)
		f.advanced = nil
	}
}

func (f *fsm) index() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

// position returns the index of the last applied command, and by how much it is greater than the
// index of that command in Raft's log.
func (f *fsm) position() (applied, offset uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied, f.offset
}

// term returns the term of the last applied command; 0 if this process has applied none.
func (f *fsm) term() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastTerm
}

// wait blocks until the command at index is applied. It returns an error if ctx ends or the state
// machine stops first.
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

// Snapshot captures the current state. Persist writes it while commands are applied. Raft gives the
// snapshot the index of the last entry that it has passed to this node, so a state that contains
// later entries is not stored yet.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.wrong != nil {
		if err := f.wrong(); err != nil {
			return nil, err
		}
	}
	f.working <- struct{}{}
	defer func() { <-f.working }()
	s, err := f.snapshot()
	if err != nil {
		return nil, err
	}
	if f.last < f.contained {
		return nil, errHeld
	}
	return s, nil
}

// Restore replaces the state by a snapshot, which comes from the leader or from the disk.
func (f *fsm) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	f.working <- struct{}{}
	defer func() { <-f.working }()
	at, err := f.replace(rc)
	if err == nil {
		f.held, f.contained, f.last = false, 0, at.index-at.offset
	}
	return err
}

// replaced returns a channel that is closed when a snapshot replaces the state. A proposal that is
// in the snapshot is never applied here, so its proposer must not wait for the result any longer.
func (f *fsm) replaced() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.restored
}

type fsmSnapshot struct {
	state io.WriterTo
	at    snapshotHeader
}

// Persist writes the captured state to sink and closes it.
func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := writeSnapshot(sink, s.at, s.state); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release does nothing: the state holds no resources.
func (s fsmSnapshot) Release() {}
