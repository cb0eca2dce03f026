package builds

import (
	"bytes"
	"fmt"

	"github.com/tidwall/btree"
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// buildTable holds the records of builds by id. It keeps those of ended builds encoded, which takes
// a quarter of the memory, and decodes them for each reader. Like table it remembers the records
// that change.
type buildTable struct {
	m      *btree.Map[string, storedBuild]
	before map[string]storedBuild // as in table; an empty value stands for no record
	sum    uint64
}

// storedBuild is a record of a buildTable: one of the two fields is set. The encoding is
// deterministic.
type storedBuild struct {
	record *buildsv1.Record
	raw    []byte
}

// storedOf returns the form in which a table keeps a record.
func storedOf(r *buildsv1.Record) storedBuild {
	if !Terminal(r.Build.Phase) {
		return storedBuild{record: r}
	}
	raw, err := deterministic.Marshal(r)
	if err != nil { // text that is not UTF-8; see recordHasher.sum
		return storedBuild{record: r}
	}
	return storedBuild{raw: bytes.Clone(raw)} // without spare capacity
}

// get returns the record. It must not change.
func (b storedBuild) get() *buildsv1.Record {
	if b.raw == nil {
		return b.record
	}
	r := new(buildsv1.Record)
	if err := proto.Unmarshal(b.raw, r); err != nil {
		panic(fmt.Sprintf("decode the record of an ended build, which this process has encoded: %v", err))
	}
	return r
}

// exists reports whether there is a record.
func (b storedBuild) exists() bool { return b.record != nil || b.raw != nil }

// same reports whether two values are the same record without a change in between.
func (b storedBuild) same(o storedBuild) bool {
	return b.record == o.record && bytes.Equal(b.raw, o.raw)
}

// hash returns the hash of the record under its key, the same for both forms.
func (b storedBuild) hash(h *recordHasher, key string) uint64 {
	if b.raw == nil {
		return h.of(key, b.record)
	}
	return h.ofEncoded(key, b.raw)
}

func newBuildTable() *buildTable { return &buildTable{m: new(btree.Map[string, storedBuild])} }

// Len returns the number of records.
func (t *buildTable) Len() int { return t.m.Len() }

// Get returns the record of a build, or nil.
func (t *buildTable) Get(id string) *buildsv1.Record {
	b, _ := t.m.Get(id)
	return b.get()
}

// GetAt returns the record at a position in the order of ids, or nil.
func (t *buildTable) GetAt(i int) *buildsv1.Record {
	_, b, _ := t.m.GetAt(i)
	return b.get()
}

// Set stores a record. The record must not change afterwards.
func (t *buildTable) Set(id string, r *buildsv1.Record) {
	old, _ := t.m.Set(id, storedOf(r))
	t.note(id, old)
}

// Delete removes a record.
func (t *buildTable) Delete(id string) {
	old, _ := t.m.Delete(id)
	t.note(id, old)
}

// Scan calls f with all records, by id, until f returns false.
func (t *buildTable) Scan(f func(id string, r *buildsv1.Record) bool) {
	t.m.Scan(func(id string, b storedBuild) bool { return f(id, b.get()) })
}

// Reverse calls f with all records, last id first, until f returns false.
func (t *buildTable) Reverse(f func(id string, r *buildsv1.Record) bool) {
	t.m.Reverse(func(id string, b storedBuild) bool { return f(id, b.get()) })
}

// Descend calls f with the records of id and of smaller ids, last one first, until f returns false.
func (t *buildTable) Descend(id string, f func(id string, r *buildsv1.Record) bool) {
	t.m.Descend(id, func(id string, b storedBuild) bool { return f(id, b.get()) })
}

// scanStored calls f with all records in the form in which they are kept, by id.
func (t *buildTable) scanStored(f func(id string, b storedBuild) bool) { t.m.Scan(f) }

// Copy returns a copy that has no sum.
func (t *buildTable) Copy() *buildTable { return &buildTable{m: t.m.Copy()} }

func (t *buildTable) note(id string, old storedBuild) {
	if t.before == nil {
		return
	}
	if _, noted := t.before[id]; !noted {
		t.before[id] = old
	}
}

// track takes the sum of all records, which settle then keeps up to date.
func (t *buildTable) track(h *recordHasher) {
	t.before, t.sum = map[string]storedBuild{}, 0
	t.m.Scan(func(id string, b storedBuild) bool {
		t.sum += b.hash(h, id)
		return true
	})
}

// settle returns the sum of the hashes of all records, as that of table.
func (t *buildTable) settle(h *recordHasher) uint64 {
	for id, old := range t.before {
		now, _ := t.m.Get(id)
		if now.same(old) {
			continue
		}
		if old.exists() {
			t.sum -= old.hash(h, id)
		}
		if now.exists() {
			t.sum += now.hash(h, id)
		}
	}
	clear(t.before)
	return t.sum
}
