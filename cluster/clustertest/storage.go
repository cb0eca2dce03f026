package clustertest

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster"
)

// NewStorage returns an empty storage in memory. It can outlive the process of its node.
func NewStorage() cluster.Storage {
	log := raft.NewInmemStore()
	return cluster.Storage{Log: log, Stable: log, Snapshots: &snapshots{}}
}

// NewSnapshots returns an empty store of snapshots in memory. It can outlive the process of its node.
func NewSnapshots() raft.SnapshotStore { return &snapshots{} }

// snapshots keeps the newest complete snapshot. Unlike raft.InmemSnapshotStore it does not return a
// snapshot that a crash has cut off.
type snapshots struct {
	mu     sync.Mutex
	newest *snapshot
}

type snapshot struct {
	store *snapshots
	meta  raft.SnapshotMeta
	data  bytes.Buffer
}

// Create begins a snapshot.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, cIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &snapshot{store: s, meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term, Configuration: c, ConfigurationIndex: cIndex,
	}}, nil
}

// List returns the newest snapshot.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil {
		return nil, nil
	}
	meta := s.newest.meta
	return []*raft.SnapshotMeta{&meta}, nil
}

// Open opens the snapshot with that id.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil || s.newest.meta.ID != id {
		return nil, nil, fmt.Errorf("no snapshot %q", id)
	}
	meta := s.newest.meta
	return &meta, io.NopCloser(bytes.NewReader(s.newest.data.Bytes())), nil
}

func (s *snapshot) Write(p []byte) (int, error) { return s.data.Write(p) }
func (s *snapshot) ID() string                  { return s.meta.ID }
func (s *snapshot) Cancel() error               { return nil }

// Close makes the snapshot the newest one.
func (s *snapshot) Close() error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.meta.Size = int64(s.data.Len())
	if n := s.store.newest; n == nil || n.meta.Index <= s.meta.Index {
		s.store.newest = s
	}
	return nil
}
