package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// The functions in this file replace the state of a node by that of another one, while Raft goes
// on. Raft's log, its term and the votes stay as they are: only the state is wrong. Between hold
// and exchange or release, this node applies no entries. Both apply the entries that it has passed
// over, from the log.

// errHeld is the result of an entry that this node applies later, or whose effect its new state has
// already.
var errHeld = errors.New("the state of this node is being replaced")

// errReplaced means that a snapshot of Raft has replaced a held state.
var errReplaced = errors.New("another snapshot has replaced the state meanwhile")

// Apply applies one entry of the log, or passes over it while the state is held.
func (f *fsm) Apply(l *raft.Log) any {
	f.working <- struct{}{}
	defer func() { <-f.working }()
	f.last = l.Index
	if f.held || l.Index <= f.contained {
		return errHeld
	}
	return f.apply(l)
}

// hold makes the node pass over all further entries. It returns the index of the state.
func (f *fsm) hold() uint64 {
	f.working <- struct{}{}
	defer func() { <-f.working }()
	f.held, f.heldAt = true, max(f.last, f.contained)
	return f.index()
}

// release continues with the state that was held.
func (f *fsm) release(log raft.LogStore) error {
	f.working <- struct{}{}
	defer func() { <-f.working }()
	if !f.held {
		return nil
	}
	return f.catchUp(log, f.heldAt)
}

// exchange continues with the state in a snapshot of another node, which must contain all entries
// that the held state contains. If it returns an error other than errReplaced, the state is held
// still.
func (f *fsm) exchange(raw []byte, log raft.LogStore) error {
	f.working <- struct{}{}
	defer func() { <-f.working }()
	if !f.held {
		return errReplaced
	}
	at, err := readSnapshot(bytes.NewReader(raw), func(io.Reader) error { return nil })
	if err == nil && at.index < f.index() {
		err = fmt.Errorf("it ends at index %d, before index %d of the held state", at.index, f.index())
	}
	if err == nil {
		_, err = f.replace(bytes.NewReader(raw))
	}
	if err != nil {
		return err
	}
	f.contained = at.index - at.offset
	return f.catchUp(log, f.contained)
}

// skipTo continues with a later state of another node. The entries that it contains count as applied.
// The caller holds working.
func (f *fsm) skipTo(raw []byte) any {
	at, err := f.replace(bytes.NewReader(raw))
	if err != nil {
		return f.fail(fmt.Errorf("continue with the state of the leader: %w", err))
	}
	f.contained = at.index - at.offset
	return errHeld
}

// catchUp applies the entries after an index up to the last one that this node has passed over. The
// caller holds working.
func (f *fsm) catchUp(log raft.LogStore, after uint64) error {
	f.held = false
	for i := after + 1; i <= f.last; i++ {
		if i <= f.contained { // the state contains it since a restore, see skipTo
			continue
		}
		var l raft.Log
		if err := log.GetLog(i, &l); err != nil {
			return f.fail(fmt.Errorf("apply entry %d of the log again: %w", i, err))
		}
		if l.Type != raft.LogCommand {
			continue
		}
		f.apply(&l)
		if err := f.failed(); err != nil {
			return err
		}
	}
	return nil
}

// replace replaces the state by a snapshot. The caller holds working.
func (f *fsm) replace(r io.Reader) (snapshotHeader, error) {
	at, err := readSnapshot(r, f.sm.Restore)
	if err != nil {
		return at, err
	}
	f.mu.Lock()
	f.offset = at.offset
	f.epoch++
	f.mu.Unlock()
	f.advance(at.index, 0)
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.restored)
	f.restored = make(chan struct{})
	return at, nil
}

// capture returns the state as it is now, with its position.
func (f *fsm) capture(ctx context.Context) (fsmSnapshot, error) {
	select {
	case f.working <- struct{}{}:
	case <-ctx.Done():
		return fsmSnapshot{}, ctx.Err()
	}
	defer func() { <-f.working }()
	return f.snapshot()
}

// snapshot returns the current state. The caller holds working.
func (f *fsm) snapshot() (fsmSnapshot, error) {
	if err := f.failed(); err != nil {
		return fsmSnapshot{}, err
	}
	if f.held {
		return fsmSnapshot{}, errHeld
	}
	w, err := f.sm.Snapshot()
	if err != nil {
		return fsmSnapshot{}, err
	}
	applied, offset := f.position()
	return fsmSnapshot{w, snapshotHeader{index: applied, offset: offset}}, nil
}

// replacements returns how often the state was replaced. A statement about the state is true only
// while the number stays the same.
func (f *fsm) replacements() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch
}
