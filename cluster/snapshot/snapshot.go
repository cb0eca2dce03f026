// Package snapshot is the format of a snapshot of the state: a header, the state and a checksum.
package snapshot

import (
	"bufio"
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

// Read passes the state in a snapshot to restore, and returns its position. The checksum follows
// the state, so restore reads to the end of its reader before it replaces anything, and replaces
// nothing if the reader returns another error than io.EOF. Read returns an error for a damaged
// snapshot, whatever restore returned. A snapshot can be as large as the state, so Read does not
// hold it in memory.
func Read(r io.Reader, restore func(io.Reader) error) (at Header, err error) {
	var head [headSize + 8]byte
	short := func(err error) error {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errDamaged
		}
		return fmt.Errorf("read snapshot: %w", err)
	}
	if _, err := io.ReadFull(r, head[:headSize]); err != nil {
		return at, short(err)
	}
	n := headSize
	switch {
	case bytes.Equal(head[:8], magic[:]):
	case !bytes.Equal(head[:6], magic[:6]):
		return at, fmt.Errorf("read snapshot: %w", errDamaged)
	case head[6] == 0 && head[7] == versionOffset:
		n = len(head)
		if _, err := io.ReadFull(r, head[headSize:]); err != nil {
			return at, short(err)
		}
	default:
		return at, fmt.Errorf("read snapshot: version %d.%d is unknown to this binary", head[6], head[7])
	}
	at.Index, at.Offset = binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint64(head[headSize:])
	b := &body{r: bufio.NewReaderSize(r, 1<<18), sum: xxhash.New()}
	_, _ = b.sum.Write(head[:n]) // never fails
	err = restore(b)
	if _, damage := io.Copy(io.Discard, b); damage != nil {
		err = fmt.Errorf("read snapshot: %w", damage)
	}
	return at, err
}

// body reads the state and then verifies the checksum behind it.
type body struct {
	r   *bufio.Reader
	sum *xxhash.Digest
}

// Read returns errDamaged instead of io.EOF if the checksum is wrong.
func (b *body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	ahead, err := b.r.Peek(min(len(p)+tailSize, b.r.Size()))
	if n := min(len(ahead)-tailSize, len(p)); n > 0 {
		copy(p, ahead[:n])
		_, _ = b.sum.Write(p[:n])
		_, err = b.r.Discard(n)
		return n, err
	}
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	if len(ahead) < tailSize || binary.BigEndian.Uint64(ahead) != b.sum.Sum64() {
		return 0, errDamaged
	}
	return 0, io.EOF
}
