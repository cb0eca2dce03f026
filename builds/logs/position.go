package logs

import "encoding/binary"

// The raw offset of a log usually is the sum of the raw bytes of its records. The two numbers
// differ after output was dropped because of the limit of the log, and after a runtime has begun to
// read the workload's output at another position (Reposition). A record of the kind kindPosition
// then stores the raw offset. Each append to a copy carries the raw offset at the end of the log,
// because the log may end without a further record of output.

// noPosition is not the raw offset of any log.
const noPosition = -1

// position is the source position of a log.
type position struct {
	raw int64
	// truncated means that output was dropped because of the limit of the log.
	truncated bool
}

func (p position) record() record {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.raw))
	if p.truncated {
		return record{kind: kindPosition, payload: append(b, 1)}
	}
	return record{kind: kindPosition, payload: append(b, 0)}
}

// positionOf returns the position in a record. ok is false for other records.
func positionOf(r record) (p position, ok bool) {
	if r.kind != kindPosition || len(r.payload) < 9 {
		return position{}, false
	}
	return position{int64(binary.BigEndian.Uint64(r.payload)), r.payload[8] == 1}, true
}
