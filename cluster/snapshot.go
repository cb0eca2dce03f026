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
// followed by the index of the last applied command (8 bytes, big endian), the state as the state
// machine writes it, and the xxhash64 of everything before it (8 bytes, big endian).
var snapshotMagic = [8]byte{'i', 'b', 's', 'n', 'a', 'p', 0, 1}

const (
	snapshotHead = 16
	snapshotTail = 8
)

func writeSnapshot(w io.Writer, index uint64, state io.WriterTo) error {
	sum := xxhash.New()
	out := io.MultiWriter(w, sum)
	head := binary.BigEndian.AppendUint64(snapshotMagic[:], index)
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
// returns its index.
func readSnapshot(r io.Reader, restore func(io.Reader) error) (uint64, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return 0, fmt.Errorf("read snapshot: %w", err)
	}
	if len(raw) < snapshotHead+snapshotTail || !bytes.Equal(raw[:6], snapshotMagic[:6]) {
		return 0, fmt.Errorf("read snapshot: %w", errSnapshotDamaged)
	}
	if !bytes.Equal(raw[:8], snapshotMagic[:]) {
		return 0, fmt.Errorf("read snapshot: version %d.%d is unknown to this binary", raw[6], raw[7])
	}
	body, tail := raw[:len(raw)-snapshotTail], raw[len(raw)-snapshotTail:]
	if xxhash.Sum64(body) != binary.BigEndian.Uint64(tail) {
		return 0, fmt.Errorf("read snapshot: %w", errSnapshotDamaged)
	}
	if err := restore(bytes.NewReader(body[snapshotHead:])); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(body[8:snapshotHead]), nil
}
