// Package snapshot is the format of a snapshot of the state: a header, the state and a checksum.
package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
)

// magic starts a snapshot: 6 bytes of identification and 2 bytes of version. It is followed by the
// index of the last applied command (8 bytes, big endian), in version 2 by its offset (8 bytes, big
// endian), by the state as the state machine writes it, and by the xxhash64 of everything before it
// (8 bytes, big endian).
var magic = [8]byte{'i', 'b', 's', 'n', 'a', 'p', 0, 1}

// versionOffset is the version of snapshots with an offset. Only Raft's own snapshots have one, and
// only after a restore that had to move the index.
const versionOffset = 2

const (
	headSize = 16
	tailSize = 8
)

// Header is the position of a snapshot.
type Header struct {
	Index  uint64 // of the last applied command
	Offset uint64 // by how much Index is greater than the index of that command in Raft's log
}

// Write writes a snapshot of a state at a position.
func Write(w io.Writer, at Header, state io.WriterTo) error {
	sum := xxhash.New()
	out := io.MultiWriter(w, sum)
	head := binary.BigEndian.AppendUint64(magic[:], at.Index)
	if at.Offset > 0 {
		head[7] = versionOffset
		head = binary.BigEndian.AppendUint64(head, at.Offset)
	}
	if _, err := out.Write(head); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if _, err := state.WriteTo(out); err != nil {
		return err
	}
	if _, err := w.Write(binary.BigEndian.AppendUint64(nil, sum.Sum64())); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

var errDamaged = errors.New("the snapshot is damaged or cut off; restore from another copy or node")

// Read verifies a snapshot to its last byte, then passes the state in it to restore, and
// returns its position.
func Read(r io.Reader, restore func(io.Reader) error) (at Header, err error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return at, fmt.Errorf("read snapshot: %w", err)
	}
	if len(raw) < headSize+tailSize || !bytes.Equal(raw[:6], magic[:6]) {
		return at, fmt.Errorf("read snapshot: %w", errDamaged)
	}
	head := headSize
	switch {
	case bytes.Equal(raw[:8], magic[:]):
	case raw[6] == 0 && raw[7] == versionOffset:
		head += 8
	default:
		return at, fmt.Errorf("read snapshot: version %d.%d is unknown to this binary", raw[6], raw[7])
	}
	body, tail := raw[:len(raw)-tailSize], raw[len(raw)-tailSize:]
	if len(body) < head || xxhash.Sum64(body) != binary.BigEndian.Uint64(tail) {
		return at, fmt.Errorf("read snapshot: %w", errDamaged)
	}
	at.Index = binary.BigEndian.Uint64(body[8:])
	if head > headSize {
		at.Offset = binary.BigEndian.Uint64(body[headSize:])
	}
	return at, restore(bytes.NewReader(body[head:]))
}
