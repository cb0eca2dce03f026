package raftlog_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"

	"github.com/image-builder-ha/image-builder/cluster/disktest"
	"github.com/image-builder-ha/image-builder/cluster/raftlog"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// This file pins what the log does at errors of its disk. raft-wal documents none of it. Observed
// in raft-wal 0.4.1, each until the log is opened again and some for ever:
//
//   - an error of Create after a segment is full: "segment is sealed" at each further write
//   - the same, and the process ends before the next segment is in the list: the same for ever
//   - a torn write that was to seal the segment: the same for ever
//   - an error of Create during a truncation: the list on disk has been truncated, the one in
//     memory has not; the next attempt reports "file exists"
//   - an error of Sync: the entries are in the file, and the next start finds them
//   - an error after a commit of the list: memory and disk differ

// diskOp is a kind of operation of a disk, and how it fails.
type diskOp string

const (
	opList         diskOp = "list"
	opCreate       diskOp = "create"
	opCreateLeaves diskOp = "create, which leaves the file"
	opDelete       diskOp = "delete"
	opOpen         diskOp = "open"
	opWrite        diskOp = "write"
	opWriteHalf    diskOp = "write, a half of it"
	opWriteAll     diskOp = "write, all of it"
	opSync         diskOp = "sync"
	opCommit       diskOp = "commit"
	opCommitStored diskOp = "commit, which is stored"
	opMark         diskOp = "mark"
	opMarkSync     diskOp = "sync of the mark"
)

var diskOps = []diskOp{opList, opCreate, opCreateLeaves, opDelete, opOpen, opWrite, opWriteHalf, opWriteAll, opSync, opCommit, opCommitStored, opMark, opMarkSync}

var errInjected = errors.New("an injected error of the disk")

// faultyDisk fails the operations of one kind, from the one with the number at on, count times.
type faultyDisk struct {
	raftlog.Disk
	mu        sync.Mutex
	op        diskOp
	at, count int
	seen      int
	// kill ends the process at the first failure, if it is set.
	kill func()
}

// begin starts to fail operations.
func (d *faultyDisk) begin(op diskOp, at, count int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.op, d.at, d.count, d.seen = op, at, count, 0
}

// end makes the disk work, and returns how many operations of the kind there were.
func (d *faultyDisk) end() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.op = ""
	return d.seen
}

func (d *faultyDisk) fails(op diskOp) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if op != d.op {
		return false
	}
	d.seen++
	failed := d.seen > d.at && d.seen <= d.at+d.count
	if failed && d.kill != nil {
		d.kill()
	}
	return failed
}

func (d *faultyDisk) ListDir(dir string) ([]string, error) {
	if d.fails(opList) {
		return nil, errInjected
	}
	return d.Disk.ListDir(dir)
}

func (d *faultyDisk) Create(dir, name string, size uint64) (types.WritableFile, error) {
	if d.fails(opCreate) {
		return nil, errInjected
	}
	f, err := d.Disk.Create(dir, name, size)
	if d.fails(opCreateLeaves) {
		return nil, errInjected
	}
	return faultyFile{f, d}, err
}

func (d *faultyDisk) Delete(dir, name string) error {
	if d.fails(opDelete) {
		return errInjected
	}
	return d.Disk.Delete(dir, name)
}

func (d *faultyDisk) OpenWriter(dir, name string) (types.WritableFile, error) {
	if d.fails(opOpen) {
		return nil, errInjected
	}
	f, err := d.Disk.OpenWriter(dir, name)
	return faultyFile{f, d}, err
}

func (d *faultyDisk) OpenReader(dir, name string) (types.ReadableFile, error) {
	if d.fails(opOpen) {
		return nil, errInjected
	}
	return d.Disk.OpenReader(dir, name)
}

func (d *faultyDisk) OpenMark(create bool) (raftlog.MarkFile, error) {
	f, err := d.Disk.OpenMark(create)
	return faultyMark{f, d}, err
}

func (d *faultyDisk) Meta() types.MetaStore { return faultyMeta{d.Disk.Meta(), d} }

type faultyFile struct {
	types.WritableFile
	d *faultyDisk
}

func (f faultyFile) WriteAt(p []byte, at int64) (int, error) {
	if f.d.fails(opWrite) {
		return 0, errInjected
	}
	if f.d.fails(opWriteHalf) {
		n, _ := f.WritableFile.WriteAt(p[:len(p)/2], at)
		return n, errInjected
	}
	n, err := f.WritableFile.WriteAt(p, at)
	if f.d.fails(opWriteAll) {
		return n, errInjected
	}
	return n, err
}

func (f faultyFile) Sync() error {
	if f.d.fails(opSync) {
		return errInjected
	}
	return f.WritableFile.Sync()
}

type faultyMark struct {
	raftlog.MarkFile
	d *faultyDisk
}

func (f faultyMark) WriteAt(p []byte, at int64) (int, error) {
	if f.d.fails(opMark) {
		return 0, errInjected
	}
	return f.MarkFile.WriteAt(p, at)
}

func (f faultyMark) Sync() error {
	if f.d.fails(opMarkSync) {
		return errInjected
	}
	return f.MarkFile.Sync()
}

type faultyMeta struct {
	types.MetaStore
	d *faultyDisk
}

func (m faultyMeta) CommitState(s types.PersistentState) error {
	if m.d.fails(opCommit) {
		return errInjected
	}
	err := m.MetaStore.CommitState(s)
	if m.d.fails(opCommitStored) {
		return errInjected
	}
	return err
}

// modelLog drives a log and knows what was acknowledged. Each attempt to store an entry has other
// data, as if another leader sent it, so that a refused entry cannot pass for an acknowledged one.
type modelLog struct {
	t        *testing.T
	log      *raftlog.Log
	first    uint64 // index of the first entry; 0 if there is none
	data     map[uint64]string
	last     uint64
	attempts int
	// ended is set once the log has ended the process, because it cannot know what is on the disk.
	ended bool
	// cut is the first entry that a removal has begun to remove and may have removed; 0 if none.
	cut uint64
}

// modelSegmentBytes is the size of a segment, which holds about eight entries.
const modelSegmentBytes = 4 << 10

// append stores count entries. It reports whether they were acknowledged.
func (m *modelLog) append(from uint64, count int) bool {
	m.attempts++
	var logs []*raft.Log
	for i := range uint64(count) {
		d := make([]byte, 400)
		copy(d, fmt.Sprintf("entry %d of attempt %d", from+i, m.attempts))
		logs = append(logs, &raft.Log{Index: from + i, Term: 1, Data: d})
	}
	if err := m.log.StoreLogs(logs); err != nil {
		return false
	}
	if m.first == 0 {
		m.first = from
	}
	for _, l := range logs {
		m.data[l.Index] = string(l.Data)
		m.last = l.Index
	}
	return true
}

// remove removes the entries from first to last. It reports whether they are gone.
func (m *modelLog) remove(first, last uint64) (done bool) {
	defer func() {
		if p := recover(); p != nil {
			m.ended = true
		}
	}()
	if first > m.first && m.first > 0 || last >= m.last {
		m.cut = first
	}
	if err := m.log.DeleteRange(first, last); err != nil {
		return false
	}
	m.cut = 0
	for i := first; i <= last; i++ {
		delete(m.data, i)
	}
	switch {
	case len(m.data) == 0:
		m.first, m.last = 0, 0
	case first <= m.first:
		m.first = last + 1
	default:
		m.last = first - 1
	}
	return true
}

// check compares the log with the model.
func (m *modelLog) check(when string) {
	m.t.Helper()
	first, err1 := m.log.FirstIndex()
	last, err2 := m.log.LastIndex()
	if err := errors.Join(err1, err2); err != nil || first != m.first || last != m.last {
		m.t.Fatalf("%s: the log has the entries %d to %d, want %d to %d (%v)", when, first, last, m.first, m.last, err)
	}
	for i := m.first; i <= m.last && i > 0; i++ {
		var l raft.Log
		if err := m.log.GetLog(i, &l); err != nil || string(l.Data) != m.data[i] {
			m.t.Fatalf("%s: entry %d is %.30q, want %.30q (%v)", when, i, l.Data, m.data[i], err)
		}
	}
}

// logChanges are changes of a log that has the entries 1 to 20. Each reports whether it was
// acknowledged, and is repeated until it was.
var logChanges = map[string]func(m *modelLog) bool{
	"append one":             func(m *modelLog) bool { return m.append(m.last+1, 1) },
	"append to the next":     func(m *modelLog) bool { return m.last >= 40 || m.append(m.last+1, 1) && m.last >= 40 },
	"append many":            func(m *modelLog) bool { return m.append(m.last+1, 30) },
	"truncate":               func(m *modelLog) bool { return m.remove(m.last, m.last) },
	"truncate segments":      func(m *modelLog) bool { return m.remove(5, m.last) },
	"compact":                func(m *modelLog) bool { return m.remove(m.first, 15) },
	"replace by a snapshot":  func(m *modelLog) bool { return (m.last == 0 || m.remove(m.first, m.last)) && m.append(1000, 3) },
	"truncate after compact": func(m *modelLog) bool { return (m.first == 12 || m.remove(1, 11)) && m.remove(14, m.last) },
}

// Test_LogContract fails each operation of the disk during each change of a log, once, a few times,
// or all the time. Once the disk works, the change must succeed, the log must take further entries,
// and it must have what was acknowledged and nothing that was refused, even after a restart.
func Test_LogContract(t *testing.T) {
	counts := []int{1, 1 << 20}
	if testkit.Soak() {
		counts = []int{1, 2, 1 << 20}
	}
	for name, change := range logChanges {
		t.Run(name, func(t *testing.T) {
			for _, op := range diskOps {
				for _, count := range counts {
					for at := 0; logFault(t, change, op, at, count); at++ {
						if t.Failed() {
							t.Fatalf("the fault: %s number %d, %d times", op, at+1, count)
						}
					}
				}
			}
		})
	}
}

// logFault runs a change on a disk that fails. It returns false if the change has fewer operations
// of that kind than at.
func logFault(t *testing.T, change func(*modelLog) bool, op diskOp, at, count int) (more bool) {
	defer func() {
		if t.Failed() {
			t.Logf("the fault: %s number %d, %d times", op, at+1, count)
		}
	}()
	disk := disktest.NewDisk()
	faulty := &faultyDisk{Disk: disk.Mount()}
	m := &modelLog{t: t, data: map[uint64]string{}}
	m.log = openLog(t, faulty, true)
	for m.last < 20 {
		if !m.append(m.last+1, 1) {
			t.Fatal("a write fails on a disk that works")
		}
	}
	faulty.begin(op, at, count)
	before := *m
	done := false
	for range 30 {
		if done = change(m); done || m.ended {
			break
		}
		m.check("after an error")
	}
	more = faulty.end() > at
	if m.ended {
		m.restartAfterEnd(disk, before)
		return more
	}
	for try := 0; !done; try++ {
		if try == 30 {
			t.Fatal("the disk works again, but the change still fails")
		}
		done = change(m)
	}
	m.check("after the change")
	for range 20 {
		if !m.append(m.last+1, 1) {
			t.Fatal("the disk works again, but the log takes no further entries")
		}
	}
	m.check("after further entries")
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
	disk.PowerLoss(func(int) int { return 1 })
	m.log = openLog(t, disk.Mount(), false)
	m.check("after a power loss")
	if !m.append(m.last+1, 1) {
		t.Fatal("after a restart the log takes no entries")
	}
	return more
}

// restartAfterEnd opens the log of a process that has ended in a removal: the entries are there, or
// those that were to be removed are not.
func (m *modelLog) restartAfterEnd(disk *disktest.Disk, before modelLog) {
	m.t.Helper()
	m.log = openLog(m.t, disk.Mount(), false)
	last, err := m.log.LastIndex()
	if err != nil || last > before.last {
		m.t.Fatalf("after the end of the process the log ends at %d, before at %d (%v)", last, before.last, err)
	}
	m.last = last
	m.first, _ = m.log.FirstIndex()
	m.check("after the end of the process")
	if !m.append(m.last+1, 1) {
		m.t.Fatal("after the end of the process the log takes no entries")
	}
}

// openAt opens and verifies a log. Its snapshot ends before its first entry.
func openAt(dir string, disk raftlog.Disk, fresh bool) (*raftlog.Log, error) {
	log, err := raftlog.Open(raftlog.Options{Dir: dir, Disk: disk, SegmentBytes: modelSegmentBytes, Fresh: fresh})
	if err != nil {
		return nil, err
	}
	if fresh {
		err = log.SyncMark(0)
	} else {
		var first uint64
		if first, err = log.FirstIndex(); err == nil {
			err = log.Verify(max(first, 1)-1, func(*raft.Log) {})
		}
	}
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return log, nil
}

func openLog(t *testing.T, disk raftlog.Disk, fresh bool) *raftlog.Log {
	t.Helper()
	log, err := openAt("disk", disk, fresh)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log
}

// Test_LogContract_Killed ends the process at each operation of the disk during each change of a
// log, and during its first start. A power loss follows. The log must be accepted, have what was
// acknowledged, and take further entries.
func Test_LogContract_Killed(t *testing.T) {
	logChanges := maps.Clone(logChanges)
	logChanges["first start"] = nil
	for name, change := range logChanges {
		t.Run(name, func(t *testing.T) {
			for _, op := range diskOps {
				for at := 0; logKilled(t, change, op, at); at++ {
					if t.Failed() {
						t.Fatalf("the process ends at: %s number %d", op, at+1)
					}
				}
			}
		})
	}
}

func logKilled(t *testing.T, change func(*modelLog) bool, op diskOp, at int) (more bool) {
	defer func() {
		if t.Failed() {
			t.Logf("the process ends at: %s number %d", op, at+1)
		}
	}()
	r := rand.New(rand.NewPCG(uint64(at), 0))
	disk := disktest.NewDisk()
	mount := disk.Mount()
	faulty := &faultyDisk{Disk: mount, kill: mount.Kill}
	m := &modelLog{t: t, data: map[uint64]string{}}
	fresh := change == nil
	if fresh {
		faulty.begin(op, at, 1)
		if log, err := openAt("disk", faulty, true); err == nil {
			_ = log.Close()
		}
	} else {
		m.log = openLog(t, faulty, true)
		for m.last < 20 {
			m.must(m.append(m.last+1, 1))
		}
		faulty.begin(op, at, 1)
		for try := 0; try < 30 && !change(m) && !m.ended; try++ {
		}
		_ = m.log.Close()
	}
	more = faulty.end() > at
	mount.Kill()
	disk.PowerLoss(r.IntN)
	m.log = openLog(t, disk.Mount(), fresh)
	first, _ := m.log.FirstIndex()
	last, _ := m.log.LastIndex()
	least := m.last
	if m.cut > 0 {
		least = m.cut - 1
	}
	if last < least {
		t.Fatalf("after the restart the log ends at entry %d, but %d was acknowledged", last, least)
	}
	for i := first; i <= last && i > 0; i++ {
		var l raft.Log
		if err := m.log.GetLog(i, &l); err != nil || m.data[i] != "" && string(l.Data) != m.data[i] {
			t.Fatalf("after the restart entry %d is %.30q, want %.30q (%v)", i, l.Data, m.data[i], err)
		}
		m.data[i] = string(l.Data)
	}
	m.first, m.last = first, last
	for range 20 {
		m.must(m.append(m.last+1, 1))
	}
	m.check("after further entries")
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
	disk.PowerLoss(func(int) int { return 1 })
	m.log = openLog(t, disk.Mount(), false)
	m.check("after another power loss")
	return more
}

func (m *modelLog) must(done bool) {
	m.t.Helper()
	if !done {
		m.t.Fatal("the disk works, but the log cannot be changed")
	}
}

// Test_LogContract_StoreAfterRemoval fails the writes that follow the removal of the end of a log.
// Raft counts the removed entries as stored if such a write fails, so the log must try again.
func Test_LogContract_StoreAfterRemoval(t *testing.T) {
	for _, op := range []diskOp{opWrite, opWriteHalf, opWriteAll, opSync} {
		synctest.Test(t, func(t *testing.T) {
			faulty := &faultyDisk{Disk: disktest.NewDisk().Mount()}
			m := &modelLog{t: t, data: map[uint64]string{}}
			m.log = openLog(t, faulty, true)
			m.must(m.append(1, 10))
			m.must(m.remove(8, 10))
			faulty.begin(op, 0, 3)
			m.must(m.append(8, 1))
			m.check("after the errors")
		})
	}
}

// Test_LogContract_NoStoreAfterRemoval is Test_LogContract_StoreAfterRemoval with a disk that fails for
// good. The process must end: Raft would refuse all entries, or acknowledge some without a log before
// them. The log of a killed process must not end the process of the test.
func Test_LogContract_NoStoreAfterRemoval(t *testing.T) {
	for _, first := range []uint64{8, 1} { // 1: the log is empty after the removal
		for _, killed := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				mount := disktest.NewDisk().Mount()
				faulty := &faultyDisk{Disk: mount}
				if killed {
					faulty.kill = mount.Kill
				}
				m := &modelLog{t: t, data: map[uint64]string{}}
				m.log = openLog(t, faulty, true)
				m.must(m.append(1, 10))
				m.must(m.remove(first, 10))
				faulty.begin(opWrite, 0, 1<<20)
				var ended any
				func() {
					defer func() { ended = recover() }()
					m.append(first, 1)
				}()
				if (ended == nil) != killed {
					t.Errorf("entry %d cannot be stored, the process is killed: %t: the log ends the process: %v", first, killed, ended)
				}
			})
		}
	}
}

// Test_LogContract_Gap appends entries after a gap, as Raft does after it has installed a snapshot and
// could not remove the log.
func Test_LogContract_Gap(t *testing.T) {
	for _, op := range []diskOp{"", opCreate, opCommit, opWrite, opSync, opMarkSync} {
		disk := disktest.NewDisk()
		faulty := &faultyDisk{Disk: disk.Mount()}
		m := &modelLog{t: t, data: map[uint64]string{}}
		m.log = openLog(t, faulty, true)
		m.must(m.append(1, 10))
		faulty.begin(op, 0, 1)
		done := m.append(50, 2)
		if faulty.end(); !done {
			m.must(m.append(50, 2))
		}
		m.first = 50
		m.check("after the gap")
		if err := m.log.Close(); err != nil {
			t.Fatal(err)
		}
		disk.PowerLoss(func(int) int { return 1 })
		m.log = openLog(t, disk.Mount(), false)
		m.check("after a power loss")
	}
}
