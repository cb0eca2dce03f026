package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"github.com/hashicorp/raft-wal/segment"

	"github.com/image-builder-ha/image-builder/faults"
)

// sectorSize is the least unit that a disk writes as a whole.
const sectorSize = 512

// damageAfter reports how the tail shows that it is damaged after keep, the last entry that
// raft-wal reads; "" if it does not. After a power loss the mark can be too low to show it. The
// bytes after keep may be the rest of a write that a power loss has cut off. That write was never
// acknowledged. The file had zeros there before, and a disk writes whole sectors. So in the rest of
// such a write each frame header is intact or zero, no intact write follows, and at least one
// sector is zero, or the end is missing.
func (f *walFiles) damageAfter(keep uint64) (string, error) {
	state, err := f.Load(f.dir)
	if err != nil {
		return "", err
	}
	tail, ok := openTail(state)
	if !ok || faults.Mutant("damage-passes-for-a-torn-write") {
		return "", nil
	}
	name := segment.FileName(tail)
	r, err := f.OpenWriter(f.dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	dropCache(r)
	end, err := findEnd(r, tail, keep)
	if err != nil {
		return "", err
	}
	if keep >= tail.BaseIndex && end.last != keep {
		return fmt.Sprintf("entry %d in the file %s cannot be read", end.last+1, name), nil
	}
	to, err := endOfData(r, end.offset)
	if err != nil || to <= end.offset {
		return "", err
	}
	rest := make([]byte, (to-end.offset+frameHeaderSize-1)/frameHeaderSize*frameHeaderSize)
	if n, err := r.ReadAt(rest, end.offset); n < int(to-end.offset) {
		return "", err
	}
	if what := damageIn(rest, int(end.offset)); what != "" {
		return fmt.Sprintf("the file %s has %s after entry %d, which is not the rest of a write that was cut off", name, what, keep), nil
	}
	return "", nil
}

// damageIn describes the damage in the rest of a segment that a power loss during a write cannot
// explain; "" if there is none. The rest begins after the last intact write, at that offset of the
// file, and ends with the last frame that is not zero.
func damageIn(rest []byte, offset int) string {
	first := max(segmentHeaderSize-offset, 0) // the first write begins with the header of the segment
	for at := first; at+frameHeaderSize <= len(rest); {
		kind, size := frameAt(rest[at:])
		if kind == frameDamaged {
			return fmt.Sprintf("a damaged frame at %d", offset+at)
		}
		if kind == segment.FrameInvalid {
			break
		}
		at += size
	}
	for at := first; at+frameHeaderSize <= len(rest); at += frameHeaderSize {
		if kind, _ := frameAt(rest[at:]); kind == segment.FrameCommit && intactWrite(rest[at+frameHeaderSize:]) {
			return fmt.Sprintf("an intact write at %d", offset+at+frameHeaderSize)
		}
	}
	last := len(rest) - frameHeaderSize
	if kind, _ := frameAt(rest[max(last, 0):]); last < first || kind != segment.FrameCommit {
		return ""
	}
	sum := binary.LittleEndian.AppendUint32(nil, crc32.Checksum(rest[:last], castagnoli))
	if bytes.HasPrefix(sum, bytes.TrimRight(rest[last+4:], "\x00")) {
		return "" // an index that was written on its own, or a checksum that was cut off
	}
	for at := 0; at < last; {
		next := min((offset+at)/sectorSize*sectorSize+sectorSize-offset, last)
		if len(bytes.TrimRight(rest[at:next], "\x00")) == 0 {
			return ""
		}
		at = next
	}
	return fmt.Sprintf("a whole write with a wrong checksum at %d", offset)
}

// intactWrite reports whether b begins with a write whose checksum is right.
func intactWrite(b []byte) bool {
	for at := 0; at+frameHeaderSize <= len(b); {
		kind, size := frameAt(b[at:])
		switch kind {
		case segment.FrameCommit:
			return at > 0 && crc32.Checksum(b[:at], castagnoli) == binary.LittleEndian.Uint32(b[at+4:])
		case segment.FrameEntry, segment.FrameIndex:
			at += size
		default:
			return false
		}
	}
	return false
}

// frameDamaged is the kind of a frame that raft-wal never writes.
const frameDamaged = 0xff

// frameAt returns the kind and the size of the frame at the start of b.
func frameAt(b []byte) (kind byte, size int) {
	length := int(binary.LittleEndian.Uint32(b[4:]))
	switch {
	case b[1] != 0 || b[2] != 0 || b[3] != 0, b[0] > segment.FrameCommit, b[0] == segment.FrameInvalid && length != 0:
		return frameDamaged, 0
	case b[0] == segment.FrameInvalid, b[0] == segment.FrameCommit:
		return b[0], frameHeaderSize
	}
	return b[0], frameHeaderSize + (length+7)&^7
}
