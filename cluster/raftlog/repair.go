package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"time"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/image-builder-ha/image-builder/faults"
)

// The format of a segment, as raft-wal documents it in segment/format.go: a header, then frames. A
// frame has a header with its type and, in its second half, the length of its payload or, in a
// commit frame, the checksum of everything since the former commit frame.
const (
	segmentHeaderSize = 32
	frameHeaderSize   = 8
)

// segmentEnd is where the entries of an unsealed segment end.
type segmentEnd struct {
	offset int64  // after the last commit frame
	last   uint64 // index of the last entry; BaseIndex-1 if there is none
	// index is the offset of the index of a segment that was sealed by its last entries; 0 if it
	// was not. The list of segments does not say so yet.
	index uint64
}

// findEnd reads a segment and returns where its entries up to the index keep end. Only entries
// before an intact commit frame count. An index after the last entries does not count if it was
// written on its own, as by a truncation that has failed afterwards.
func findEnd(f io.ReaderAt, si types.SegmentInfo, keep uint64) (end segmentEnd, err error) {
	end.last = si.BaseIndex - 1
	next, entries, index := end.last, 0, uint64(0)
	var head [frameHeaderSize]byte
	for at := int64(segmentHeaderSize); ; {
		if n, err := f.ReadAt(head[:], at); n < len(head) {
			if errors.Is(err, io.EOF) {
				return end, nil
			}
			return end, err
		}
		size := int64(binary.LittleEndian.Uint32(head[4:]))
		switch head[0] {
		case segment.FrameEntry:
			next++
			entries++
		case segment.FrameIndex:
			index = uint64(at) + frameHeaderSize
		case segment.FrameCommit:
			sum := crc32.New(castagnoli)
			if _, err := io.Copy(sum, io.NewSectionReader(f, end.offset, at-end.offset)); err != nil {
				return end, err
			}
			if sum.Sum32() != uint32(size) || next > keep || entries == 0 {
				return end, nil
			}
			end = segmentEnd{offset: at + frameHeaderSize, last: next, index: index}
			entries, index, size = 0, 0, 0
		default:
			return end, nil
		}
		at += frameHeaderSize + (size+7)&^7
	}
}

// clearAfter overwrites everything after offset in the segment name with zeros, durably. It reports
// whether there was anything. An earlier write that has failed may be there in whole or in part,
// and raft-wal would read it as entries, or as the index that ends the segment.
//
// A read of the file may return other data than the disk has: after a failed sync Linux counts the
// pages as written. So clearAfter writes all zeros again that a former call has not made durable.
func (f *walFiles) clearAfter(w types.WritableFile, name string, offset int64) (changed bool, err error) {
	dropCache(w)
	to, err := endOfData(w, offset)
	if err != nil {
		return false, err
	}
	if f.uncleared.name == name && !faults.Mutant("zeros-count-as-durable") {
		to = max(to, f.uncleared.to)
	}
	if to <= offset {
		return false, nil
	}
	f.uncleared.name, f.uncleared.to = name, to
	zeros := make([]byte, 64<<10)
	for at := offset; at < to; {
		n, err := w.WriteAt(zeros[:min(int64(len(zeros)), to-at)], at)
		if err != nil {
			return true, err
		}
		at += int64(n)
	}
	if err := w.Sync(); err != nil {
		return true, err
	}
	f.uncleared.to = 0
	return true, nil
}

// endOfData returns the offset after the last byte of a file that is not zero; from if there is
// none after from.
func endOfData(f io.ReaderAt, from int64) (int64, error) {
	buf, end := make([]byte, 64<<10), from
	for at := from; ; {
		n, err := f.ReadAt(buf, at)
		if rest := bytes.TrimRight(buf[:n], "\x00"); len(rest) > 0 {
			end = at + int64(len(rest))
		}
		if at += int64(n); errors.Is(err, io.EOF) {
			return end, nil
		} else if err != nil {
			return end, err
		}
	}
}

// repairTail makes the unsealed segment end at the entry keep, the last one that was acknowledged.
// It returns the offset of the index if those entries have sealed the segment, else 0, and whether
// it has changed the segment. It changes nothing if acknowledged entries cannot be read.
func (f *walFiles) repairTail(si types.SegmentInfo, keep uint64) (index uint64, changed bool, err error) {
	name := segment.FileName(si)
	w, err := f.OpenWriter(f.dir, name)
	if errors.Is(err, fs.ErrNotExist) && keep < si.BaseIndex {
		return 0, false, nil // raft-wal creates it
	}
	if err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	end, err := findEnd(w, si, keep)
	if err != nil {
		return 0, false, err
	}
	if keep >= si.BaseIndex && end.last != keep {
		return 0, false, fmt.Errorf("entry %d of the log cannot be read any more: the log ends at entry %d", keep, end.last)
	}
	if end.index > 0 || faults.Mutant("keep-refused-entries") {
		return end.index, false, nil
	}
	changed, err = f.clearAfter(w, name, end.offset)
	return 0, changed, err
}

// repair removes the remains of a failed change from the log, whose last acknowledged entry is
// keep. If the tail is full, it adds the next segment to the list, which raft-wal does only right
// after the write that fills the tail. It reports whether it has changed anything.
func (f *walFiles) repair(keep uint64, segmentBytes int) (changed bool, err error) {
	state, err := f.Load(f.dir)
	if err != nil {
		return false, err
	}
	tail, ok := openTail(state)
	if !ok {
		return false, nil
	}
	index, changed, err := f.repairTail(tail, keep)
	if err != nil || index == 0 {
		return changed, err
	}
	next := cloneState(state)
	sealed := &next.Segments[len(next.Segments)-1]
	sealed.SealTime, sealed.MaxIndex, sealed.IndexStart = time.Now(), keep, index
	added := types.SegmentInfo{
		ID: next.NextSegmentID, BaseIndex: keep + 1, MinIndex: keep + 1, SizeLimit: uint32(segmentBytes),
		Codec: wal.CodecBinaryV1, CreateTime: time.Now(),
	}
	next.NextSegmentID++
	next.Segments = append(next.Segments, added)
	if err := f.CommitState(next); err != nil {
		return false, err
	}
	w, err := f.Create(f.dir, segment.FileName(added), uint64(segmentBytes)) // the prepared file
	if err != nil {
		return true, err
	}
	return true, w.Close()
}
