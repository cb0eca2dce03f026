package builds

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
	"github.com/tidwall/btree"
	"google.golang.org/protobuf/proto"
)

// record is a record of a table: a pointer to a message.
type record interface {
	comparable
	proto.Message
}

// table is a table of the state from which other tables derive. It remembers the records that
// change, so that the hash of its content follows without a scan of the table.
type table[V record] struct {
	*btree.Map[string, V]

	// before holds, by key, the records that have changed since the sum was taken, as they were
	// then. It is nil in a table that has no sum.
	before map[string]formerRecord[V]
	sum    uint64 // of the hashes of the records; see settle
}

// formerRecord is the record of a key at an earlier time, if there was one.
type formerRecord[V record] struct {
	v      V
	exists bool
}

func newTable[V record]() *table[V] { return &table[V]{Map: new(btree.Map[string, V])} }

// Set stores a record. The record must not change afterwards.
func (t *table[V]) Set(key string, v V) (V, bool) {
	old, ok := t.Map.Set(key, v)
	t.note(key, old, ok)
	return old, ok
}

// Delete removes a record.
func (t *table[V]) Delete(key string) (V, bool) {
	old, ok := t.Map.Delete(key)
	t.note(key, old, ok)
	return old, ok
}

// Copy returns a copy that has no sum.
func (t *table[V]) Copy() *table[V] { return &table[V]{Map: t.Map.Copy()} }

func (t *table[V]) note(key string, old V, exists bool) {
	if t.before == nil {
		return
	}
	if _, noted := t.before[key]; !noted {
		t.before[key] = formerRecord[V]{old, exists}
	}
}

// track takes the sum of all records, which settle then keeps up to date.
func (t *table[V]) track(h *recordHasher) {
	t.before, t.sum = map[string]formerRecord[V]{}, 0
	t.Scan(func(key string, v V) bool {
		t.sum += h.of(key, v)
		return true
	})
}

// settle returns the sum, modulo 2^64, of the hashes of all records. It encodes only the records
// that have changed since it was called last. The order of the changes does not matter.
func (t *table[V]) settle(h *recordHasher) uint64 {
	for key, old := range t.before {
		now, exists := t.Get(key)
		if exists && old.exists && now == old.v {
			continue
		}
		if old.exists {
			t.sum -= h.of(key, old.v)
		}
		if exists {
			t.sum += h.of(key, now)
		}
	}
	clear(t.before)
	return t.sum
}

// recordHasher hashes records. Its buffer makes it unfit for concurrent use.
type recordHasher struct{ buf []byte }

var deterministic = proto.MarshalOptions{Deterministic: true}

// of returns the hash of a record under its key.
func (h *recordHasher) of(key string, m proto.Message) uint64 {
	h.buf = binary.AppendUvarint(h.buf[:0], uint64(len(key)))
	h.buf = append(h.buf, key...)
	return h.sum(m)
}

// ofEncoded returns the hash of a record under its key. raw is its deterministic encoding.
func (h *recordHasher) ofEncoded(key string, raw []byte) uint64 {
	h.buf = binary.AppendUvarint(h.buf[:0], uint64(len(key)))
	h.buf = append(h.buf, key...)
	h.buf = append(h.buf, raw...)
	return xxhash.Sum64(h.buf)
}

// sum returns the hash of the buffer and a message.
func (h *recordHasher) sum(m proto.Message) uint64 {
	buf, err := deterministic.MarshalAppend(h.buf, m)
	if err != nil { // text that is not UTF-8, which no snapshot could hold; the text of err varies
		buf = append(h.buf, "invalid"...)
	}
	h.buf = buf
	return xxhash.Sum64(buf)
}
