package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
)

// A segment file begins with a header of 48 bytes: magic with the version of the format, epoch,
// offset and raw offset of the first record, index of the segment, CRC-32C of all that, and 4
// unused bytes. The records follow. A record consists of its kind, the length of the payload, the
// number of raw bytes that the payload stands for, a CRC-32C of these and of the payload, and the
// payload. All numbers are big-endian.
const (
	headerSize = 48
	recordHead = 16
	// maxPayload limits the payload of a record that is written.
	maxPayload = 1 << 20
	// maxReadPayload limits the payload of a record that is read: version 0.3.0 wrote records of
	// any size, which depended on the size of the secrets.
	maxReadPayload = 16 << 20
)

var (
	segmentMagic = [8]byte{'i', 'b', 'l', 'o', 'g', 0, 0, 1}
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
	errTorn      = errors.New("record is cut off or damaged")
)

// Kinds of records.
const (
	kindData  = 1 // output
	kindFence = 2 // payload: an epoch; writers of older epochs are refused
	kindSeal  = 3 // payload: length and checksum of the whole log
	// The kinds below are of feature level 5. Older versions skip them on the disk, and refuse them
	// in appends.
	kindIncarnation = 4 // payload: the incarnation of the copy; see incarnation.go
	kindPosition    = 5 // payload: the raw offset at which the next output begins; see position.go
)

type header struct {
	epoch, offset, raw, index uint64
}

func (h header) encode() []byte {
	b := append(make([]byte, 0, headerSize), segmentMagic[:]...)
	for _, v := range []uint64{h.epoch, h.offset, h.raw, h.index} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(b, 0, 0, 0, 0)
}

func decodeHeader(b []byte) (header, error) {
	if len(b) < headerSize || [8]byte(b[:8]) != segmentMagic {
		return header{}, fmt.Errorf("it is not a log segment of a known version")
	}
	if crc32.Checksum(b[:40], castagnoli) != binary.BigEndian.Uint32(b[40:]) {
		return header{}, errors.New("its header is damaged")
	}
	u := func(i int) uint64 { return binary.BigEndian.Uint64(b[i:]) }
	return header{u(8), u(16), u(24), u(32)}, nil
}

type record struct {
	kind    uint32
	raw     uint32
	payload []byte
}

func (r record) append(b []byte) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint32(b, r.kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.payload)))
	b = binary.BigEndian.AppendUint32(b, r.raw)
	sum := crc32.Update(crc32.Checksum(b[at:], castagnoli), castagnoli, r.payload)
	b = binary.BigEndian.AppendUint32(b, sum)
	return append(b, r.payload...)
}

// readRecord reads the record at a position of a segment and returns the position after it. It
// returns io.EOF at the end of the segment, and errTorn if there is no whole record.
func readRecord(f io.ReaderAt, at int64) (record, int64, error) {
	var head [recordHead]byte
	n, err := f.ReadAt(head[:], at)
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return record{}, at, io.EOF
	case n < recordHead && errors.Is(err, io.EOF):
		return record{}, at, errTorn
	case n < recordHead:
		return record{}, at, err
	}
	size := binary.BigEndian.Uint32(head[4:])
	if size > maxReadPayload {
		return record{}, at, errTorn
	}
	r := record{kind: binary.BigEndian.Uint32(head[:]), raw: binary.BigEndian.Uint32(head[8:]), payload: make([]byte, size)}
	if n, err := f.ReadAt(r.payload, at+recordHead); n < int(size) {
		if errors.Is(err, io.EOF) {
			err = errTorn
		}
		return record{}, at, err
	}
	if crc32.Update(crc32.Checksum(head[:12], castagnoli), castagnoli, r.payload) != binary.BigEndian.Uint32(head[12:]) {
		return record{}, at, errTorn
	}
	return r, at + recordHead + int64(size), nil
}

func fenceRecord(epoch uint64) record {
	return record{kind: kindFence, payload: binary.BigEndian.AppendUint64(nil, epoch)}
}

// segmentName returns <build>.<attempt>.<index>.log: the byte order of names is the order of
// segments.
func segmentName(key Key, index uint64) string {
	return fmt.Sprintf("%s.%d.%08d.log", key.Build, key.Attempt, index)
}

func parseName(name string) (Key, bool) {
	parts := strings.Split(name, ".")
	if len(parts) != 4 || parts[3] != "log" || !validBuild.MatchString(parts[0]) {
		return Key{}, false
	}
	n, err := strconv.ParseUint(parts[1], 10, 32)
	return Key{parts[0], uint32(n)}, err == nil
}

// seekStep is the least distance between two index entries of a segment, in bytes.
const seekStep = 64 << 10

// segment is one file of a log. It describes the durable part only.
type segment struct {
	path   string
	header header
	size   int64 // bytes of whole records, header included
	seeks  []seek
}

// seek is an entry of a segment's index: the record at the file position pos begins at offset.
type seek struct{ offset, pos int64 }

// note adds an index entry if the last one is far enough away.
func (s *segment) note(offset, pos int64) {
	if n := len(s.seeks); n == 0 || pos-s.seeks[n-1].pos >= seekStep {
		s.seeks = append(s.seeks, seek{offset, pos})
	}
}
