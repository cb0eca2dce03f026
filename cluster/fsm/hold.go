package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/snapshot"
)

// The functions in this file replace the state of a node by that of another one, while Raft
// continues. Raft's log, its term and the votes stay as they are: only the state is wrong. Between
// hold and exchange or release, this node applies no entries. Both apply the entries that it has
// passed over, from the log.

// errReplaced means that a snapshot of Raft has replaced a held state.
var errReplaced = errors.New("another snapshot has replaced the state meanwhile")

// Hold makes the node pass over all further entries. It returns the index of the state.
func (f *FSM) Hold() uint64 {
	f.working <- struct{}{}
	defer func() { <-f.working }()
	f.held, f.heldAt = true, max(f.last, f.contained)
	return f.Index()
}

// Release continues with the state that was held.
func (f *FSM) Release(log raft.LogStore) error {
	f.working <- struct{}{}
	defer func() { <-f.working }()
	if !f.held {
		return nil
	}
	return f.catchUp(log, f.heldAt)
}

// Exchange continues with the state in a snapshot of another node, which must contain all entries
// that the held state contains. If it returns an error other than errReplaced, the state is held
// still.
func (f *FSM) Exchange(raw []byte, log raft.LogStore) error {
	f.working <- struct{}{}
	defer func() { <-f.working }()
	if !f.held {
		return errReplaced
	}
	at, err := snapshot.Read(bytes.NewReader(raw), func(io.Reader) error { return nil })
	if err == nil && at.Index < f.Index() {
		err = fmt.Errorf("it ends at index %d, before index %d of the held state", at.Index, f.Index())
	}
	if err == nil {
		_, err = f.replace(bytes.NewReader(raw))
	}
	if err != nil {
		return err
	}
	f.contained = at.Index - at.Offset
	return f.catchUp(log, f.contained)
}

// catchUp applies the entries after an index up to the last one that this node has passed over. The
// caller holds working.
func (f *FSM) catchUp(log raft.LogStore, after uint64) error {
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
		if err := f.Failed(); err != nil {
			return err
		}
	}
	return nil
}
