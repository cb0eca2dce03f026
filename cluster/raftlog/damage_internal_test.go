package raftlog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// endedLog is the file of a log that a power loss has ended: the mark does not show how far the log
// was written.
type endedLog struct {
	t    *testing.T
	dir  string
	file string
	raw  []byte
	// writes holds where each write begins in the file, and the index of its first entry. The last one
	// is the end of the file.
	writes []segmentEnd
}

// newEndedLog writes a log with writes of one to three entries of random bytes.
func newEndedLog(t *testing.T, r *rand.Rand) *endedLog {
	l := &endedLog{t: t, dir: t.TempDir()}
	s := newLog(t, l.dir, nil)
	next := uint64(1)
	for range 12 {
		l.note(s, next)
		var logs []*raft.Log
		for range 1 + r.IntN(3) {
			data := make([]byte, 50+r.IntN(900))
			for i := range data {
				data[i] = byte(1 + r.IntN(255))
			}
			logs = append(logs, &raft.Log{Index: next, Term: 1, Type: raft.LogCommand, Data: data})
			next++
		}
		mustStore(t, s, logs)
	}
	l.note(s, next)
	if err := s.setMark(0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mark, err := os.OpenFile(filepath.Join(l.dir, datadir.LogEnd), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Log{mark: mark}).setMark(0); err != nil {
		t.Fatal(err)
	}
	_ = mark.Close()
	if l.raw, err = os.ReadFile(l.file); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *endedLog) note(s *Log, next uint64) {
	l.t.Helper()
	tail, _ := openTail(s.files.state)
	f, err := s.files.OpenReader(s.files.dir, fmt.Sprintf("%020d-%016x.wal", tail.BaseIndex, tail.ID))
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	l.file = filepath.Join(s.files.dir, fmt.Sprintf("%020d-%016x.wal", tail.BaseIndex, tail.ID))
	end, err := findEnd(f, tail, next-1)
	if err != nil {
		l.t.Fatal(err)
	}
	end.last = next
	l.writes = append(l.writes, end)
}

// open opens the log with other content of its file. It returns the index of the last entry, or the
// error of a log that is refused.
func (l *endedLog) open(raw []byte) (uint64, error) {
	l.t.Helper()
	f, err := os.OpenFile(l.file, os.O_RDWR, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	end := l.writes[len(l.writes)-1].offset
	if _, err := f.WriteAt(raw[:end], 0); err != nil {
		l.t.Fatal(err)
	}
	_ = f.Close()
	s, err := Open(Options{Dir: l.dir, SegmentBytes: testSegmentBytes})
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close() }()
	if err := s.Verify(0, ignore); err != nil {
		return 0, err
	}
	return s.LastIndex()
}

// Test_DamageAtTheEnd changes one bit in one of the last writes of a log, after a power loss. The log
// must be refused, or have all entries.
func Test_DamageAtTheEnd(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	l := newEndedLog(t, r)
	end := l.writes[len(l.writes)-1]
	if got, err := l.open(l.raw); err != nil || got != end.last-1 {
		t.Fatalf("the log ends at %d (%v), want %d", got, err, end.last-1)
	}
	refused, lost := 0, 0
	from := l.writes[len(l.writes)-3].offset
	changes := map[int64][]int{} // bits by byte
	for at := from; at < end.offset; {
		_, size := frameAt(l.raw[at:])
		for i := range int64(frameHeaderSize) {
			changes[at+i] = []int{0, 1, 2, 3, 4, 5, 6, 7}
		}
		at += int64(size)
	}
	for range 100 {
		if at := from + r.Int64N(end.offset-from); changes[at] == nil {
			changes[at] = []int{r.IntN(8)}
		}
	}
	for at, bits := range changes {
		for _, bit := range bits {
			raw := bytes.Clone(l.raw)
			raw[at] ^= 1 << bit
			got, err := l.open(raw)
			switch {
			case err != nil && strings.Contains(err.Error(), "is damaged"):
				refused++
			case err != nil:
				t.Fatalf("bit %d of byte %d: %v", bit, at, err)
			case got != end.last-1:
				// The last commit frame of the log that has become an entry or an index, or has lost a part
				// of its checksum, cannot be told from a write that was cut off.
				if lost++; at >= end.offset-frameHeaderSize && lost <= 3 {
					continue
				}
				t.Errorf("bit %d of byte %d: the log is accepted and ends at %d, want %d", bit, at, got, end.last-1)
			}
		}
	}
	t.Logf("%d changed logs were refused, %d were accepted without all entries", refused, lost)
}

// Test_TornEnd cuts off the last write of a log, in each of the ways that a power loss can. The log
// must be accepted, and have all entries before that write.
func Test_TornEnd(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 1))
	for range testkit.InSoak(3, 1) {
		l := newEndedLog(t, r)
		begin, end := l.writes[len(l.writes)-2], l.writes[len(l.writes)-1]
		check := func(what string, raw []byte) {
			t.Helper()
			if got, err := l.open(raw); err != nil || got != begin.last-1 && got != end.last-1 {
				t.Fatalf("%s: the log ends at %d (%v), want %d", what, got, err, begin.last-1)
			}
		}
		for at := begin.offset; at < end.offset; at += 1 + r.Int64N(max(1, min(80, end.offset-at-16))) {
			raw := bytes.Clone(l.raw)
			clear(raw[at:end.offset])
			check(fmt.Sprintf("cut off after %d bytes", at-begin.offset), raw)
		}
		sectors := (end.offset-1)/sectorSize - begin.offset/sectorSize + 1
		for range 40 {
			raw, written := bytes.Clone(l.raw), r.Perm(int(sectors))[:r.IntN(int(sectors))]
			for i := range sectors {
				if !slices.Contains(written, int(i)) {
					at := (begin.offset/sectorSize + i) * sectorSize
					clear(raw[max(at, begin.offset):min(at+sectorSize, end.offset)])
				}
			}
			check(fmt.Sprintf("only the sectors %v of %d are written", written, sectors), raw)
		}
	}
}
