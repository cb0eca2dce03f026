package cluster

import (
	"testing"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// unsynced is a disk whose file with the end of the log loses all writes that were not synced. Its
// other files are on the real file system.
type unsynced struct {
	types.VFS
	meta types.MetaStore
	mark *unsyncedMark
}

func (d unsynced) Meta() types.MetaStore           { return d.meta }
func (d unsynced) OpenMark(bool) (MarkFile, error) { return d.mark, nil }

type unsyncedMark struct{ data, synced []byte }

func (m *unsyncedMark) ReadAt(p []byte, _ int64) (int, error) { return copy(p, m.data), nil }
func (m *unsyncedMark) WriteAt(p []byte, _ int64) (int, error) {
	m.data = append([]byte(nil), p...)
	return len(p), nil
}
func (m *unsyncedMark) Sync() error  { m.synced = m.data; return nil }
func (m *unsyncedMark) Close() error { return nil }
func (m *unsyncedMark) powerLoss()   { m.data = m.synced }

// Test_LogStore_PowerLoss loses the writes of the file with the end of the log that were not synced:
// the log is accepted after its first start, and after its end was removed.
func Test_LogStore_PowerLoss(t *testing.T) {
	dir := t.TempDir()
	disk := unsynced{fs.New(), newMemoryMeta(), &unsyncedMark{}}
	open := func(initialized bool) *logStore {
		t.Helper()
		s, err := openLogStore(dir, disk, 1<<16, !initialized)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.verify(dir, 0, initialized); err != nil {
			t.Fatalf("a sound log is refused: %v", err)
		}
		return s
	}
	s := open(false)
	_ = s.close()
	disk.mark.powerLoss()

	s = open(true)
	for i := range uint64(10) {
		if err := s.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: []byte("a")}); err != nil {
			t.Fatal(err)
		}
	}
	_ = disk.mark.Sync() // the system may write it at any time
	if err := s.DeleteRange(6, 10); err != nil {
		t.Fatal(err)
	}
	_ = s.close()
	disk.mark.powerLoss()
	_ = open(true).close()
}

// memoryMeta is a durable store of metadata in memory.
type memoryMeta struct {
	state  types.PersistentState
	stable map[string][]byte
}

func newMemoryMeta() *memoryMeta { return &memoryMeta{stable: map[string][]byte{}} }

func (m *memoryMeta) Load(string) (types.PersistentState, error) { return m.state, nil }
func (m *memoryMeta) CommitState(s types.PersistentState) error  { m.state = s; return nil }
func (m *memoryMeta) GetStable(key []byte) ([]byte, error) { return m.stable[string(key)], nil }

func (m *memoryMeta) SetStable(key, value []byte) error { m.stable[string(key)] = value; return nil }
func (m *memoryMeta) Close() error                      { return nil }
