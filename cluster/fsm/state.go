package fsm

import (
	"context"
	"errors"
	"io"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/snapshot"
)

// ErrHeld is the result of an entry that this node applies later, or whose effect is already in its
// new state.
var ErrHeld = errors.New("the state of this node is being replaced")

// replace replaces the state by a snapshot. The caller holds working.
func (f *FSM) replace(r io.Reader) (snapshot.Header, error) {
	at, err := snapshot.Read(r, f.opts.Machine.Restore)
	if err != nil {
		return at, err
	}
	f.mu.Lock()
	f.offset = at.Offset
	f.epoch++
	f.mu.Unlock()
	f.advance(at.Index, 0)
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.restored)
	f.restored = make(chan struct{})
	return at, nil
}

// Capture returns the state as it is now, with its position.
func (f *FSM) Capture(ctx context.Context) (Captured, error) {
	select {
	case f.working <- struct{}{}:
	case <-ctx.Done():
		return Captured{}, ctx.Err()
	}
	defer func() { <-f.working }()
	return f.snapshot()
}

// snapshot returns the current state. The caller holds working.
func (f *FSM) snapshot() (Captured, error) {
	if err := f.Failed(); err != nil {
		return Captured{}, err
	}
	if f.held {
		return Captured{}, ErrHeld
	}
	w, err := f.opts.Machine.Snapshot()
	if err != nil {
		return Captured{}, err
	}
	applied, offset := f.Position()
	return Captured{w, snapshot.Header{Index: applied, Offset: offset}}, nil
}

// Replacements returns how often the state was replaced. A statement about the state is true only
// while the number stays the same.
func (f *FSM) Replacements() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch
}

// Snapshot captures the current state. Persist writes it while commands are applied. Raft gives the
// snapshot the index of the last entry that it has passed to this node, so a state that contains
// later entries is not stored yet.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if f.opts.Wrong != nil {
		if err := f.opts.Wrong(); err != nil {
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
		return nil, ErrHeld
	}
	return s, nil
}

// Restore replaces the state by a snapshot, which comes from the leader or from the disk.
func (f *FSM) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	f.working <- struct{}{}
	defer func() { <-f.working }()
	at, err := f.replace(rc)
	if err == nil {
		f.held, f.contained, f.last = false, 0, at.Index-at.Offset
	}
	return err
}

// Replaced returns a channel that is closed when a snapshot replaces the state. A proposal that is
// in the snapshot is never applied here, so its proposer must not wait for the result any longer.
func (f *FSM) Replaced() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.restored
}

// Captured is the state of one moment.
type Captured struct {
	State io.WriterTo
	At    snapshot.Header
}

// Persist writes the captured state to sink and closes it.
func (s Captured) Persist(sink raft.SnapshotSink) error {
	if err := snapshot.Write(sink, s.At, s.State); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release does nothing: the state holds no resources.
func (s Captured) Release() {}
