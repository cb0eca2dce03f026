package cluster

import (
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// termStore is the StableStore of Raft. It keeps the greatest term in which this node has begun an
// election, voted or followed. Raft writes a term before it uses it, and its vote before it grants
// it, so greatest is never below a term in which this node has granted a vote. Raft's own
// CurrentTerm does not promise that: a heartbeat that is handled at the same time as the beginning
// of an election can set it back.
type termStore struct {
	raft.StableStore
	greatest atomic.Uint64
}

// Keys of the terms in Raft's StableStore.
const (
	keyCurrentTerm  = "CurrentTerm"
	keyLastVoteTerm = "LastVoteTerm"
)

// newTermStore returns a termStore that knows the terms in store.
func newTermStore(store raft.StableStore) (*termStore, error) {
	s := &termStore{StableStore: store}
	for _, key := range []string{keyCurrentTerm, keyLastVoteTerm} {
		term, err := store.GetUint64([]byte(key))
		if err != nil && err.Error() != "not found" { // the text by which Raft recognizes it
			return nil, fmt.Errorf("read the term: %w", err)
		}
		s.raise(term)
	}
	return s, nil
}

// SetUint64 records a term before it is written.
func (s *termStore) SetUint64(key []byte, value uint64) error {
	if k := string(key); k == keyCurrentTerm || k == keyLastVoteTerm {
		s.raise(value)
	}
	return s.StableStore.SetUint64(key, value)
}

func (s *termStore) raise(term uint64) {
	for {
		old := s.greatest.Load()
		if old >= term || s.greatest.CompareAndSwap(old, term) {
			return
		}
	}
}
