package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/faults"
	"github.com/image-builder-ha/image-builder/internal/inflight"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// logStore is raft-wal with guards. raft-wal cuts its tail at the first frame that it cannot read.
// That is right for a torn write, but loses entries of a damaged disk. So every entry carries a
// checksum, which is verified at the start, and the file "written" holds the index of the last
// entry that was written. After an error raft-wal may refuse all further writes. So the log is
// opened again after each error, see logstore_reopen.go.
type logStore struct {
	files        *walFiles
	segmentBytes int
	mark         MarkFile
	// free returns how many bytes the disk has left; nil if that is unknown.
	free func() (uint64, error)

	// writes is held during each change of the log. Lock it before swap.
	writes sync.Mutex
	// swap is locked while another log replaces wal, and read-locked while wal is in use.
	swap sync.RWMutex
	wal  *wal.WAL
	// end is the index of the last entry that was acknowledged, under writes.
	end uint64
	// cut is the index of the last entry that the last change has removed from the end of the log; 0 if
	// entries were stored since. Under writes.
	cut uint64
	// broken is the reason why the log must be opened again before the next change.
	broken atomic.Pointer[error]
	// failed receives after a change has failed or was refused; capacity 1.
	failed chan struct{}

	// ops are the changes of the log, of the term and of the vote that are in progress. Unlike
	// writeStart, they include the wait for another change.
	ops inflight.Ops
	// writeStart is the start of the write in progress on the monotonic clock; nil if there is none.
	writeStart atomic.Pointer[time.Time]
	// latency is a moving average of the time that a write takes, in nanoseconds.
	latency atomic.Int64
	// lastErr is the error of the last write.
	lastErr atomic.Pointer[error]
	closing sync.Once
}

// writing records that a write is in progress until the returned function is called.
func (s *logStore) writing() func() {
	begin := time.Now()
	s.writeStart.Store(&begin)
	return func() {
		s.writeStart.Store(nil)
		// Roughly the mean of the last ten writes.
		s.latency.Store(s.latency.Load()*9/10 + int64(time.Since(begin))/10)
	}
}

// slow reports whether recent writes took more than half of limit on average.
func (s *logStore) slow(limit time.Duration) bool { return time.Duration(s.latency.Load()) > limit/2 }

// stuck returns how long the write in progress has taken so far; 0 if there is none.
func (s *logStore) stuck() time.Duration {
	if t := s.writeStart.Load(); t != nil {
		return time.Since(*t)
	}
	return 0
}

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.StableStore       = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	markName = "written"
	markSize = 12 // index and checksum
)

// openLogStore opens the log on disk, or in the data directory dir if disk is nil.
func openLogStore(dir string, disk Disk, segmentBytes int, fresh bool) (*logStore, error) {
	s := &logStore{segmentBytes: segmentBytes, failed: make(chan struct{}, 1)}
	if disk != nil {
		mark, err := disk.OpenMark(fresh)
		if err != nil {
			return nil, damaged(dir, fmt.Sprintf("the file %q, which holds the end of the log, cannot be opened: %v", markName, err))
		}
		s.mark, s.files = mark, newWALFiles(dir, disk, disk.Meta())
		if d, ok := disk.(interface{ Free() (uint64, error) }); ok {
			s.free = d.Free
		}
		if err := s.openFirst(fresh); err != nil {
			return nil, fmt.Errorf("open the log: %w", err)
		}
		return s, nil
	}
	walDir := filepath.Join(dir, "wal")
	if err := os.MkdirAll(walDir, 0o700); err != nil {
		return nil, fmt.Errorf("create the log's directory: %w", err)
	}
	flags := os.O_RDWR
	if fresh {
		flags |= os.O_CREATE
	}
	mark, err := os.OpenFile(filepath.Join(dir, markName), flags, 0o600)
	if err != nil {
		return nil, noRoomOr(err, dir, segmentBytes, fmt.Sprintf("the file %q, which holds the end of the log, cannot be opened: %v", markName, err))
	}
	s.mark, s.files = mark, newWALFiles(walDir, walFS(), &metadb.BoltMetaDB{})
	s.free = func() (uint64, error) { return freeBytes(walDir) }
	if err := s.openFirst(fresh); err != nil {
		return nil, noRoomOr(err, dir, segmentBytes, fmt.Sprintf("the log in %q cannot be opened: %v", "wal", err))
	}
	reserve(filepath.Join(walDir, metadb.FileName))
	return s, nil
}

// openFirst opens raft-wal as the process starts. If it returns an error, it has closed the files.
func (s *logStore) openFirst(fresh bool) error {
	w, err := s.openWAL(!fresh)
	if err != nil {
		return errors.Join(err, s.files.release(), s.mark.Close())
	}
	s.wal = w
	if s.end, err = w.LastIndex(); err != nil {
		return errors.Join(err, s.close())
	}
	return nil
}

// openWAL opens raft-wal. Its metadata is a memory-mapped bbolt file: reading a damaged one causes
// a panic or a memory fault, which openWAL turns into an error. With guard it refuses a list that
// is empty although there are segments, which raft-wal would remove.
func (s *logStore) openWAL(guard bool) (w *wal.WAL, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("its metadata cannot be read: %v", p)
		}
	}()
	state, err := s.files.Load(s.files.dir)
	if err != nil {
		return nil, err
	}
	if guard && len(state.Segments) == 0 {
		if names, err := s.files.segments(); err != nil || len(names) > 0 {
			return nil, errors.Join(err, errors.New("its metadata names none of its files"))
		}
	}
	if err := s.files.removeUnlisted(); err != nil {
		return nil, err
	}
	return wal.Open(s.files.dir, wal.WithSegmentSize(s.segmentBytes), wal.WithSegmentFiler(segment.NewFiler(s.files.dir, s.files)), wal.WithMetaStore(s.files))
}

// noRoomOr returns an error that says whether the disk is full or the directory is damaged.
func noRoomOr(err error, dir string, segmentBytes int, what string) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk of the data directory %s is full: the next file of the replicated log takes %d MiB. Make room and start again; nothing is lost (%w)", dir, segmentBytes>>20, err)
	}
	return damaged(dir, what)
}

// damaged returns the error for a data directory that is refused. It names the reason and the
// remedy.
func damaged(dir, what string) error {
	return fmt.Errorf("data directory %s is damaged: %s. The node does not start, because it would lose acknowledged builds. "+
		"Do not put an older copy of the directory in its place: the node would forget its votes and what it has acknowledged. "+
		"In a cluster whose other voters have a majority, empty the directory and start the node: it joins as a new member. "+
		"If they have none, see \"A majority of the voters is lost for good\" in docs/runbooks.md. A node that is alone starts with an empty directory, and restores the newest snapshot that was saved (image-builder snapshot restore)", dir, what)
}

// IsMonotonic returns true: raft-wal allows no gaps in the log.
func (s *logStore) IsMonotonic() bool { return true }

// FirstIndex returns the index of the first entry; 0 if there is none.
func (s *logStore) FirstIndex() (uint64, error) {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return s.wal.FirstIndex()
}

// LastIndex returns the index of the last entry; 0 if there is none.
func (s *logStore) LastIndex() (uint64, error) {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return s.wal.LastIndex()
}

// Set stores a value of Raft durably.
func (s *logStore) Set(key, value []byte) error {
	defer s.ops.Begin()()
	s.swap.RLock()
	defer s.swap.RUnlock()
	return s.wal.Set(key, value)
}

// Get returns a value that Set has stored.
func (s *logStore) Get(key []byte) ([]byte, error) {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return s.wal.Get(key)
}

// SetUint64 stores a number of Raft durably.
func (s *logStore) SetUint64(key []byte, value uint64) error {
	defer s.ops.Begin()()
	s.swap.RLock()
	defer s.swap.RUnlock()
	return s.wal.SetUint64(key, value)
}

// GetUint64 returns a number that SetUint64 has stored; 0 if there is none.
func (s *logStore) GetUint64(key []byte) (uint64, error) {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return s.wal.GetUint64(key)
}

// StoreLog appends one entry. See StoreLogs.
func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries, each with its checksum, and returns once they are fsynced. If it
// returns an error, the log ends where it ended before. It panics if the entries are to replace
// removed ones and the disk fails for cutTimeout.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		c := *l
		c.Data = binary.BigEndian.AppendUint32(append(make([]byte, 0, len(l.Data)+4), l.Data...), checksum(l))
		sealed[i] = &c
	}
	defer s.ops.Begin()()
	s.writes.Lock()
	defer s.writes.Unlock()
	defer s.writing()()
	err := s.append(sealed)
	replaces := logs[0].Index <= s.cut // else Raft has a snapshot instead of the removed entries
	for begin := time.Now(); err != nil && replaces && !processEnded(err); err = s.append(sealed) {
		if time.Since(begin) >= cutTimeout {
			if faults.Mutant("removed-entries-count") {
				break
			}
			panic(fmt.Sprintf("the disk of the replicated log has failed for %s after the end of the log was removed, and Raft counts on the removed entries: %v", cutTimeout, err))
		}
		time.Sleep(mendInterval)
	}
	if err == nil {
		s.cut = 0
		s.end = logs[len(logs)-1].Index
		// A mark that is too low is safe, so the entries count even if it cannot be written.
		_ = s.setMark(s.end)
	}
	s.lastErr.Store(&err)
	return err
}

// healthProblem returns why the log cannot be written: the lack of room, or the error of the last
// write. It returns nil if the last write succeeded and there is room for the next.
func (s *logStore) healthProblem() error {
	if err := s.room(); err != nil {
		return err
	}
	if err := s.lastErr.Load(); err != nil && *err != nil {
		return fmt.Errorf("the disk under the replicated log cannot be written: %w", *err)
	}
	return nil
}

// GetLog reads one entry and verifies its checksum. raft-wal itself still returns removed entries of
// the segment that is being written (raft-wal 0.4.1, state.getLog). They must not reach another node,
// because the snapshot of a restore is removed together with the entry that names it.
func (s *logStore) GetLog(index uint64, out *raft.Log) error {
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	if index < first {
		return raft.ErrLogNotFound
	}
	s.swap.RLock()
	err = s.wal.GetLog(index, out)
	s.swap.RUnlock()
	if err != nil {
		return err
	}
	n := len(out.Data) - 4
	if n < 0 || out.Index != index {
		return fmt.Errorf("entry %d of the log is damaged", index)
	}
	sum := binary.BigEndian.Uint32(out.Data[n:])
	out.Data = out.Data[:n]
	if sum != checksum(out) {
		return fmt.Errorf("entry %d of the log is damaged: its checksum does not match", index)
	}
	return nil
}

// DeleteRange removes entries at the front of the log (compaction) or at its end (a follower that
// was ahead of its leader). If it returns an error, the log is as it was before.
func (s *logStore) DeleteRange(first, last uint64) error {
	s.writes.Lock()
	defer s.writes.Unlock()
	return s.remove(first, last)
}

// remove is DeleteRange. The caller holds s.writes.
func (s *logStore) remove(first, last uint64) error {
	begin, err := s.FirstIndex()
	if err != nil {
		return err
	}
	end := last >= s.end
	tail := end && first > begin
	// A compaction makes room, and may be what the log needs before it can be opened again.
	if err := s.mend(); err != nil && tail {
		return err
	}
	if tail { // a new segment begins after the remaining entries
		if err := s.room(); err != nil {
			return err
		}
	}
	if end && first > 0 { // lower the mark first: it must never be ahead of the log
		if err := s.lowerMark(first - 1); err != nil {
			return err
		}
	}
	if err := s.wal.DeleteRange(first, last); err != nil {
		if end && s.files.isUncertain() && !processEnded(err) {
			// Raft counts on entries that the disk may have removed: it must not go on.
			panic(fmt.Sprintf("the disk of the replicated log failed while its end was removed, and it is unknown which entries are left: %v", err))
		}
		_ = s.setMark(s.end)
		s.fail(err)
		_ = s.mend()
		return err
	}
	if end {
		s.cut = max(s.cut, s.end)
	}
	s.end, err = s.LastIndex()
	return err
}

// cutTimeout is how long StoreLogs tries again if its entries replace others. Raft has removed these
// right before, and counts them as stored until StoreLogs succeeds (appendEntries in hashicorp/raft
// 1.8). While StoreLogs tries, Raft reports none. Afterwards the process must end: Raft would
// acknowledge entries after the removed ones, or refuse all entries.
const cutTimeout = 5 * time.Second

// processEnded reports whether an error means that the files are closed. No other node sees what
// Raft does then.
func processEnded(err error) bool {
	return errors.Is(err, fs.ErrClosed) || errors.Is(err, wal.ErrClosed)
}

func checksum(l *raft.Log) uint32 {
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, l.Data)
}

// lowerMark is syncMark for the removal of entries.
func (s *logStore) lowerMark(index uint64) error {
	if faults.Mutant("mark-survives-truncation") {
		return nil
	}
	return s.syncMark(index)
}

// syncMark is setMark, and returns once the mark is durable. An earlier mark, which may be higher,
// does not come back after a power loss.
func (s *logStore) syncMark(index uint64) error {
	if err := s.setMark(index); err != nil {
		return err
	}
	if err := s.mark.Sync(); err != nil {
		return fmt.Errorf("record the end of the log: %w", err)
	}
	return nil
}

// setMark writes the index of the last entry to the mark. The mark is not fsynced: after a power
// loss it may be lower than the end of the log, but never higher.
func (s *logStore) setMark(index uint64) error {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, markSize), index)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := s.mark.WriteAt(b, 0); err != nil {
		return fmt.Errorf("record the end of the log: %w", err)
	}
	return nil
}

func (s *logStore) getMark() (index uint64, found bool, err error) {
	b := make([]byte, markSize+1)
	n, err := s.mark.ReadAt(b, 0)
	switch {
	case n == 0:
		return 0, false, nil
	case n != markSize || binary.BigEndian.Uint32(b[8:]) != crc32.Checksum(b[:8], castagnoli):
		return 0, false, fmt.Errorf("the file %q is damaged (%w)", markName, errors.Join(err))
	}
	return binary.BigEndian.Uint64(b), true, nil
}

// verify reads the whole log, which Raft reads anyway, and returns the greatest time of its
// commands in nanoseconds since the Unix epoch. snapshot is the index of the newest snapshot. It
// returns an error if entries are damaged or missing. Otherwise it prepares the log for writes.
func (s *logStore) verify(dir string, snapshot uint64, initialized bool) (last int64, err error) {
	if last, err = s.check(dir, snapshot, initialized); err != nil {
		return 0, err
	}
	if err := s.repairAtStart(); err != nil {
		return 0, fmt.Errorf("remove the remains of a write that was cut off from the log in %s: %w", dir, err)
	}
	return last, nil
}

// check is verify without a change of the log.
func (s *logStore) check(dir string, snapshot uint64, initialized bool) (last int64, err error) {
	mark, found, err := s.getMark()
	if err != nil {
		return 0, damaged(dir, err.Error())
	}
	if !found {
		if initialized {
			return 0, damaged(dir, fmt.Sprintf("the file %q is empty", markName))
		}
		if err := errors.Join(s.syncMark(0), syncDir(dir)); err != nil {
			return 0, err
		}
	}
	first, err1 := s.FirstIndex()
	end, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		return 0, damaged(dir, err.Error())
	}
	if max(end, snapshot) < mark {
		return 0, damaged(dir, fmt.Sprintf("the log ends at entry %d, but entry %d was written: it was cut off or its end cannot be read", end, mark))
	}
	if what, err := s.files.damageAfter(end); err != nil {
		return 0, fmt.Errorf("read the end of the log in %s: %w", dir, err)
	} else if what != "" {
		return 0, damaged(dir, what)
	}
	if end > 0 && first > snapshot+1 {
		return 0, damaged(dir, fmt.Sprintf("the log begins at entry %d, but the newest snapshot that can be read ends at %d", first, snapshot))
	}
	if end == 0 {
		return 0, nil
	}
	for i := first; i <= end; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			return 0, damaged(dir, err.Error())
		}
		var cmd clusterv1.Command
		if l.Type == raft.LogCommand && proto.Unmarshal(l.Data, &cmd) == nil {
			last = max(last, cmd.TimeUnixNano)
		}
	}
	return last, nil
}

// close closes the files. It can be called again.
func (s *logStore) close() (err error) {
	s.closing.Do(func() {
		_ = s.mark.Sync() // a mark that is too low is safe, and finds less damage
		err = errors.Join(s.wal.Close(), s.files.release(), s.mark.Close())
	})
	return err
}
