package cluster

import (
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
	// index is the offset of the index of a segment that was sealed by its last entries; 0 if it was
	// not. The list of segments does not say so yet.
	index uint64
}

// findEnd reads a segment and returns where its entries up to the index keep end. Only entries
// before an intact commit frame count. An index after the last entries does not count if it was
// written on its own, as a truncation does that has failed later.
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

// clearAfter overwrites everything after offset with zeros, durably. An earlier write that has
// failed may be there in whole or in part, and raft-wal would read it as entries, or as the index
// that ends the segment.
func clearAfter(f types.WritableFile, offset int64) error {
	zeros := make([]byte, 64<<10)
	if _, err := f.WriteAt(zeros[:frameHeaderSize], offset); err != nil { // ends the segment here
		return err
	}
	buf := make([]byte, len(zeros))
	for at := offset; ; {
		n, err := f.ReadAt(buf, at)
		for _, b := range buf[:n] {
			if b != 0 {
				if _, err := f.WriteAt(zeros[:n], at); err != nil {
					return err
				}
				break
			}
		}
		if at += int64(n); errors.Is(err, io.EOF) {
			return f.Sync()
		} else if err != nil {
			return err
		}
	}
}

// repairTail makes the unsealed segment end at the entry keep, the last one that was acknowledged.
// It returns the offset of the index if those entries have sealed the segment, else 0. It changes
// nothing if acknowledged entries cannot be read.
func (f *walFiles) repairTail(si types.SegmentInfo, keep uint64) (index uint64, err error) {
	w, err := f.OpenWriter(f.dir, segment.FileName(si))
	if errors.Is(err, fs.ErrNotExist) && keep < si.BaseIndex {
		return 0, nil // raft-wal creates it
	}
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	end, err := findEnd(w, si, keep)
	if err != nil {
		return 0, err
	}
	if keep >= si.BaseIndex && end.last != keep {
		return 0, fmt.Errorf("entry %d of the log cannot be read any more: the log ends at entry %d", keep, end.last)
	}
	if end.index > 0 || faults.Mutant("keep-refused-entries") {
		return end.index, nil
	}
	return 0, clearAfter(w, end.offset)
}

// repair removes the remains of a failed change from the log, whose last acknowledged entry is
// keep. If the tail is full, it adds the next segment to the list, which raft-wal does only right
// after the write that fills the tail.
func (f *walFiles) repair(keep uint64, segmentBytes int) error {
	state, err := f.Load(f.dir)
	if err != nil {
		return err
	}
	tail, ok := openTail(state)
	if !ok {
		return nil
	}
	index, err := f.repairTail(tail, keep)
	if err != nil || index == 0 {
		return err
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
		return err
	}
	w, err := f.Create(f.dir, segment.FileName(added), uint64(segmentBytes)) // the prepared file
	if err != nil {
		return err
	}
	return w.Close()
}
