package cluster

import (
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// A leader may send a snapshot although the follower has more: the message was delayed, or the
// leader has just begun to lead. hashicorp/raft 1.8 (installSnapshot) then goes back to the snapshot
// and removes the whole log, also entries after the snapshot that the follower has acknowledged, and
// still counts them as stored. The Raft paper (section 7) retains them. Three guards do that here:
//
//   - guardedSnapshots refuses a snapshot that is older than the newest one of this node, because
//     the log may lack the entries after it.
//   - logStore.DeleteRange keeps the log if it has the last entry of the newest snapshot.
//   - fsm.Restore and fsm.Apply do nothing for entries that the state already contains, so that
//     readers never see an older state.

// guardedSnapshots is a snapshot store whose newest snapshot never becomes older.
type guardedSnapshots struct{ raft.SnapshotStore }

// Create begins a snapshot. It refuses one that is older than the newest snapshot.
func (g guardedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	newest, _, err := g.newest()
	if err != nil {
		return nil, err
	}
	if index < newest {
		return nil, fmt.Errorf("the snapshot ends at entry %d, this node has one that ends at %d", index, newest)
	}
	return g.SnapshotStore.Create(version, index, term, configuration, configurationIndex, trans)
}

// Open opens a snapshot. logIndexOf returns its index from the reader.
func (g guardedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, rc, err := g.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, openSnapshot{rc, meta.Index}, nil
}

// openSnapshot is the content of a snapshot that ends at an index of Raft's log.
type openSnapshot struct {
	io.ReadCloser
	index uint64
}

// logIndexOf returns the index in Raft's log at which the snapshot ends that Raft passes to its
// state machine; 0 if it is unknown.
func logIndexOf(rc io.ReadCloser) uint64 {
	for {
		switch r := rc.(type) {
		case openSnapshot:
			return r.index
		case raft.ReadCloserWrapper:
			rc = r.WrappedReadCloser()
		default:
			return 0
		}
	}
}

// newest returns the index and the term of the last entry in the newest snapshot; 0 if there is none.
func (g guardedSnapshots) newest() (index, term uint64, err error) {
	list, err := g.List()
	if err != nil || len(list) == 0 {
		return 0, 0, err
	}
	return list[0].Index, list[0].Term, nil
}

// goesBeyondSnapshot reports whether the log has the last entry of the newest snapshot and entries
// after it.
func (s *logStore) goesBeyondSnapshot(begin uint64) (bool, error) {
	if s.newestSnapshot == nil {
		return false, nil
	}
	index, term, err := s.newestSnapshot()
	if err != nil || index < begin || index >= s.end {
		return false, err
	}
	var entry raft.Log
	if err := s.GetLog(index, &entry); err != nil {
		return false, err
	}
	return entry.Term == term, nil
}
