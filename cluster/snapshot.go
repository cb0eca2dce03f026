package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
)

// snapshotMagic starts a snapshot: 6 bytes of identification and 2 bytes of version. It is
// followed by the index of the last applied command (8 bytes, big endian), in version 2 by its offset
// (8 bytes, big endian), by the state as the state machine writes it, and by the xxhash64 of
// everything before it (8 bytes, big endian).
var snapshotMagic = [8]byte{'i', 'b', 's', 'n', 'a', 'p', 0, 1}

// snapshotOffset is the version of snapshots with an offset. Only Raft's own snapshots have one, and
// only after a restore that had to move the index.
const snapshotOffset = 2

const (
	snapshotHead = 16
	snapshotTail = 8
)

// snapshotHeader is the position of a snapshot.
type snapshotHeader struct {
	index  uint64 // of the last applied command
	offset uint64 // by how much index is greater than the index of that command in Raft's log
}

func writeSnapshot(w io.Writer, at snapshotHeader, state io.WriterTo) error {
	sum := xxhash.New()
	out := io.MultiWriter(w, sum)
	head := binary.BigEndian.AppendUint64(snapshotMagic[:], at.index)
	if at.offset > 0 {
		head[7] = snapshotOffset
		head = binary.BigEndian.AppendUint64(head, at.offset)
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

var errSnapshotDamaged = errors.New("the snapshot is damaged or cut off; restore from another copy or node")

// readSnapshot verifies a snapshot to its last byte, then passes the state in it to restore, and
// returns its position.
func readSnapshot(r io.Reader, restore func(io.Reader) error) (at snapshotHeader, err error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return at, fmt.Errorf("read snapshot: %w", err)
	}
	if len(raw) < snapshotHead+snapshotTail || !bytes.Equal(raw[:6], snapshotMagic[:6]) {
		return at, fmt.Errorf("read snapshot: %w", errSnapshotDamaged)
	}
	head := snapshotHead
	switch {
	case bytes.Equal(raw[:8], snapshotMagic[:]):
	case raw[6] == 0 && raw[7] == snapshotOffset:
		head += 8
	default:
		return at, fmt.Errorf("read snapshot: version %d.%d is unknown to this binary", raw[6], raw[7])
	}
	body, tail := raw[:len(raw)-snapshotTail], raw[len(raw)-snapshotTail:]
	if len(body) < head || xxhash.Sum64(body) != binary.BigEndian.Uint64(tail) {
		return at, fmt.Errorf("read snapshot: %w", errSnapshotDamaged)
	}
	at.index = binary.BigEndian.Uint64(body[8:])
	if head > snapshotHead {
		at.offset = binary.BigEndian.Uint64(body[snapshotHead:])
	}
	return at, restore(bytes.NewReader(body[head:]))
}
