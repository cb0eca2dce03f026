package builds

import (
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// buildTable holds the builds by id. Like table it remembers the records that change.
type buildTable struct {
	m      *tree[*entry]
	before map[string]*entry // as in table; nil stands for no record
	sum    uint64
}

func newBuildTable() *buildTable { return &buildTable{m: newTree(orderByID)} }

// Len returns the number of builds.
func (t *buildTable) Len() int { return t.m.Len() }

// entry returns a build, or nil.
func (t *buildTable) entry(id string) *entry {
	e, _ := t.m.Get(entryAt(id))
	return e
}

// Get returns the record of a build, or nil.
func (t *buildTable) Get(id string) *buildsv1.Record { return t.entry(id).get() }

// Set stores a build and returns its former version, or nil.
func (t *buildTable) Set(e *entry) (old *entry) {
	old, _ = t.m.Set(e)
	t.note(e.id(), old)
	return old
}

// Delete removes a build and returns it, or nil.
func (t *buildTable) Delete(id string) (old *entry) {
	old, _ = t.m.Delete(entryAt(id))
	t.note(id, old)
	return old
}

// Copy returns a copy that has no sum.
func (t *buildTable) Copy() *buildTable { return &buildTable{m: t.m.Copy()} }

func (t *buildTable) note(id string, old *entry) {
	if t.before == nil {
		return
	}
	if _, noted := t.before[id]; !noted {
		t.before[id] = old
	}
}

// track takes the sum of all records, which settle then keeps up to date. It does nothing if there is
// a sum.
func (t *buildTable) track(h *recordHasher) {
	if t.before != nil {
		return
	}
	var sum uint64
	t.m.Scan(func(e *entry) bool {
		sum += e.hash(h)
		return true
	})
	t.trackFrom(sum)
}

// trackFrom is track for a caller that knows the sum.
func (t *buildTable) trackFrom(sum uint64) { t.before, t.sum = map[string]*entry{}, sum }

// settle returns the sum of the hashes of all records, as that of table.
func (t *buildTable) settle(h *recordHasher) uint64 {
	for id, old := range t.before {
		now := t.entry(id)
		if now == old {
			continue
		}
		if old != nil {
			t.sum -= old.hash(h)
		}
		if now != nil {
			t.sum += now.hash(h)
		}
	}
	clear(t.before)
	return t.sum
}
