// Package raftlog is the replicated log of a node on its disk: raft-wal with guards. It refuses a
// damaged log, it continues after errors of the disk, and it reports the health of the disk.
//
// The package does not know the content of the entries, and it does not decide what a node does
// while its log cannot be written.
package raftlog

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

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	"github.com/image-builder-ha/image-builder/faults"
	"github.com/image-builder-ha/image-builder/internal/inflight"
)

// Log is raft-wal with guards. raft-wal cuts its tail at the first frame that it cannot read. That
// is right for a torn write, but loses entries of a damaged disk. So every entry carries a checksum,
// which is verified at the start, and the file "written" holds the index of the last entry that was
// written. After an error raft-wal may refuse all further writes. So the log is opened again after
// each error, see reopen.go.
//
// Call Open, then Verify, then the methods of Raft's interfaces, and finally Close.
type Log struct {
	dir          string
	fresh        bool
	files        *walFiles
	segmentBytes int
	mark         MarkFile
	// free returns how many bytes the disk has left; nil if that is unknown.
	free func() (uint64, error)

	// writes is full during each change of the log; capacity 1. The change may wait for a disk that
	// hangs. A mutex would then stop the simulated time of a test, which counts only waits for
	// channels (testing/synctest).
	writes chan struct{}
	wal    shared
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

var (
	_ raft.LogStore          = (*Log)(nil)
	_ raft.StableStore       = (*Log)(nil)
	_ raft.MonotonicLogStore = (*Log)(nil)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Options describes where a log is.
type Options struct {
	// Dir is the data directory.
	Dir string
	// Disk holds the log; nil stores it in Dir.
	Disk Disk
	// SegmentBytes is the size of one file of the log, which is allocated in advance.
	SegmentBytes int
	// Fresh means that the node has acknowledged nothing yet, so that the log may be absent.
	Fresh bool
}

// Open opens the log. The caller verifies and closes it.
func Open(o Options) (*Log, error) {
	s := &Log{dir: o.Dir, fresh: o.Fresh, segmentBytes: o.SegmentBytes, writes: make(chan struct{}, 1), failed: make(chan struct{}, 1)}
	if o.Disk != nil {
		mark, err := o.Disk.OpenMark(o.Fresh)
		if err != nil {
			return nil, datadir.Damaged(o.Dir, fmt.Sprintf("the file %q, which holds the end of the log, cannot be opened: %v", datadir.LogEnd, err))
		}
		s.mark, s.files = mark, newWALFiles(o.Dir, o.Disk, o.Disk.Meta())
		if d, ok := o.Disk.(interface{ Free() (uint64, error) }); ok {
			s.free = d.Free
		}
		if err := s.openFirst(); err != nil {
			return nil, fmt.Errorf("open the log: %w", err)
		}
		return s, nil
	}
	walDir := filepath.Join(o.Dir, datadir.LogDir)
	if err := os.MkdirAll(walDir, 0o700); err != nil {
		return nil, fmt.Errorf("create the log's directory: %w", err)
	}
	flags := os.O_RDWR
	if o.Fresh {
		flags |= os.O_CREATE
	}
	mark, err := os.OpenFile(filepath.Join(o.Dir, datadir.LogEnd), flags, 0o600)
	if err != nil {
		return nil, s.noRoomOr(err, fmt.Sprintf("the file %q, which holds the end of the log, cannot be opened: %v", datadir.LogEnd, err))
	}
	s.mark, s.files = mark, newWALFiles(walDir, walFS(), &metadb.BoltMetaDB{})
	s.free = func() (uint64, error) { return freeBytes(walDir) }
	if err := s.openFirst(); err != nil {
		return nil, s.noRoomOr(err, fmt.Sprintf("the log in %q cannot be opened: %v", datadir.LogDir, err))
	}
	reserve(filepath.Join(walDir, metadb.FileName))
	return s, nil
}

// openFirst opens raft-wal as the process starts. If it returns an error, it has closed the files.
func (s *Log) openFirst() error {
	w, err := s.openWAL(!s.fresh)
	if err != nil {
		return errors.Join(err, s.files.release(), s.mark.Close())
	}
	s.wal.replace(w)
	if s.end, err = w.LastIndex(); err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
}

// openWAL opens raft-wal. Its metadata is a memory-mapped bbolt file: reading a damaged one causes
// a panic or a memory fault, which openWAL turns into an error. With guard it refuses a list that
// is empty although there are segments, which raft-wal would remove.
func (s *Log) openWAL(guard bool) (w *wal.WAL, err error) {
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
func (s *Log) noRoomOr(err error, what string) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk of the data directory %s is full: the next file of the replicated log takes %d MiB. Make room and start again; nothing is lost (%w)", s.dir, s.segmentBytes>>20, err)
	}
	return datadir.Damaged(s.dir, what)
}

// Close closes the files. It can be called again.
func (s *Log) Close() (err error) {
	s.closing.Do(func() {
		_ = s.mark.Sync() // a mark that is too low is safe, and finds less damage
		err = errors.Join(s.wal.close(), s.files.release(), s.mark.Close())
	})
	return err
}

// IsMonotonic returns true: raft-wal allows no gaps in the log.
func (s *Log) IsMonotonic() bool { return true }

// FirstIndex returns the index of the first entry; 0 if there is none.
func (s *Log) FirstIndex() (uint64, error) {
	w := s.wal.use()
	defer s.wal.release(w)
	return w.FirstIndex()
}

// LastIndex returns the index of the last entry; 0 if there is none.
func (s *Log) LastIndex() (uint64, error) {
	w := s.wal.use()
	defer s.wal.release(w)
	return w.LastIndex()
}

// StoreLog appends one entry. See StoreLogs.
func (s *Log) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries, each with its checksum, and returns once they are fsynced. If it
// returns an error, the log ends where it ended before. It panics if the entries are to replace
// removed ones and the disk fails for cutTimeout.
func (s *Log) StoreLogs(logs []*raft.Log) error {
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
	defer s.change()()
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

// change begins a change of the log once the change in progress has ended. The returned function
// ends the change.
func (s *Log) change() (done func()) {
	s.writes <- struct{}{}
	return func() { <-s.writes }
}

// GetLog reads one entry and verifies its checksum. raft-wal itself still returns removed entries of
// the segment that is being written (raft-wal 0.4.1, state.getLog). They must not reach another node,
// because the snapshot of a restore is removed together with the entry that names it.
func (s *Log) GetLog(index uint64, out *raft.Log) error {
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	if index < first {
		return raft.ErrLogNotFound
	}
	w := s.wal.use()
	err = w.GetLog(index, out)
	s.wal.release(w)
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
func (s *Log) DeleteRange(first, last uint64) error {
	defer s.change()()
	return s.remove(first, last)
}

// remove is DeleteRange. The caller has called change.
func (s *Log) remove(first, last uint64) error {
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
	if err := s.wal.now().DeleteRange(first, last); err != nil {
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
