package builds

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"sync"
	"unique"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// entry is one version of a build, as all tables of builds share it: the fields by which the tables
// are in order, and the record. The record of an ended build is packed, because most builds of a
// large state have ended and few of them are read. An entry is immutable.
type entry struct {
	uuid      uuid.UUID             // the id; uuid.Nil if it has another form
	requester unique.Handle[string] // the first one
	created   uint64                // Record.created_index
	ended     uint64                // Record.ended_index
	ref       uint64                // hash of the ref; see refHash

	record *buildsv1.Record // nil if it is packed; not packed if uuid is uuid.Nil
	packed string
	dict   *dictionary // nil if the record is not packed
}

// entryAt returns the place of a build in orders that use nothing but the id.
func entryAt(id string) *entry {
	e := &entry{uuid: parseID(id)}
	if e.uuid == uuid.Nil {
		e.record = &buildsv1.Record{Build: &imagebuilderv1.Build{Id: id}}
	}
	return e
}

// parseID returns the UUID that has a text, or uuid.Nil.
func parseID(id string) uuid.UUID {
	u, err := uuid.Parse(id)
	if err != nil || u.String() != id { // there are other forms of the same UUID
		return uuid.Nil
	}
	return u
}

// id returns the id of the build; "" if the entry has none.
func (e *entry) id() string {
	switch {
	case e.record != nil:
		return e.record.Build.Id
	case e.uuid == uuid.Nil:
		return ""
	}
	return e.uuid.String()
}

// compareIDs is strings.Compare for the ids.
func compareIDs(a, b *entry) int {
	if a.uuid != uuid.Nil && b.uuid != uuid.Nil {
		return bytes.Compare(a.uuid[:], b.uuid[:])
	}
	return strings.Compare(a.id(), b.id())
}

// entryMaker makes entries. It is not safe for concurrent use.
type entryMaker struct {
	packer *packer
	raw    []byte
}

func newEntryMaker() *entryMaker { return &entryMaker{packer: newPacker()} }

// entry returns the entry of a record, which must not change afterwards. raw is the encoding of the
// record if it is packed, else nil. It is valid until the next call.
func (m *entryMaker) entry(r *buildsv1.Record) (e *entry, raw []byte) {
	b := r.Build
	e = &entry{
		uuid: parseID(b.Id), requester: unique.Make(b.Requester), created: r.CreatedIndex, ended: r.EndedIndex, ref: refHash(b.Ref),
		record: r,
	}
	if !Terminal(b.Phase) || e.uuid == uuid.Nil {
		return e, nil
	}
	raw, err := deterministic.MarshalAppend(m.raw[:0], r)
	m.raw = raw
	if err != nil { // text that is not UTF-8; see recordHasher.sum
		return e, nil
	}
	dict, packed := m.packer.pack(b.Id, raw)
	e.record, e.packed, e.dict = nil, string(packed), dict
	return e, raw
}

// refHash returns the hash of a ref by which tables find builds. Two refs can have the same hash,
// so readers compare the refs.
func refHash(ref string) uint64 { return xxhash.Sum64String(ref) }

// unpackBuffers has pointers to byte slices.
var unpackBuffers = sync.Pool{New: func() any { return new([]byte) }}

// withRaw calls f with the encoding of a packed record. f must not keep it.
func (e *entry) withRaw(f func(raw []byte)) {
	buffer := unpackBuffers.Get().(*[]byte)
	defer unpackBuffers.Put(buffer)
	raw, next := e.dict.unpack(*buffer, e.id(), e.packed)
	*buffer = next
	f(raw)
}

// get returns the record, or nil if e is nil. It must not change.
func (e *entry) get() *buildsv1.Record {
	if e == nil {
		return nil
	}
	if e.dict == nil {
		return e.record
	}
	r := new(buildsv1.Record)
	e.withRaw(func(raw []byte) {
		if err := proto.Unmarshal(raw, r); err != nil {
			panic(fmt.Sprintf("decode the record of an ended build, which this process has encoded: %v", err))
		}
	})
	return r
}

// hash returns the hash of the record under its id, the same for both forms.
func (e *entry) hash(h *recordHasher) (sum uint64) {
	if e.dict == nil {
		return h.of(e.id(), e.record)
	}
	e.withRaw(func(raw []byte) { sum = h.ofEncoded(e.id(), raw) })
	return sum
}

// The orders of the tables. An entry with the greatest index and no id is a place behind those that
// have the other fields in common with it.

const lastIndex = math.MaxUint64

func orderByID(a, b *entry) bool { return compareIDs(a, b) < 0 }

// orderByCreation is the order of the commands in the replicated log, whatever the clocks of their
// leaders were. Records without an index come first, by id.
func orderByCreation(a, b *entry) bool {
	if a.created != b.created {
		return a.created < b.created
	}
	return orderByID(a, b)
}

// orderByRef is the order of creation of the builds of each ref.
func orderByRef(a, b *entry) bool {
	if a.ref != b.ref {
		return a.ref < b.ref
	}
	return orderByCreation(a, b)
}

// orderByRefAndID is the order of the ids of the builds of each ref.
func orderByRefAndID(a, b *entry) bool {
	if a.ref != b.ref {
		return a.ref < b.ref
	}
	return orderByID(a, b)
}

// orderByRequester is the order of creation of the builds of each requester.
func orderByRequester(a, b *entry) bool {
	if a.requester != b.requester {
		return strings.Compare(a.requester.Value(), b.requester.Value()) < 0
	}
	return orderByCreation(a, b)
}

// orderByEnd is the order in which builds ended.
func orderByEnd(a, b *entry) bool {
	if a.ended != b.ended {
		return a.ended < b.ended
	}
	return orderByID(a, b)
}

// orderByRequesterAndEnd is the order in which the builds of each requester ended.
func orderByRequesterAndEnd(a, b *entry) bool {
	if a.requester != b.requester {
		return strings.Compare(a.requester.Value(), b.requester.Value()) < 0
	}
	return orderByEnd(a, b)
}
