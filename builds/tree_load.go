package builds

import (
	"cmp"
	"slices"
)

// collect makes Set gather the items of an empty tree until load is called. Sorting all items once
// takes a fraction of the time that placing each of them takes. No other method is called in
// between.
func (t *tree[T]) collect() { t.collects = true }

// load fills the tree with the collected items. Of items that are equal it keeps one, and returns
// another one. Items with a smaller rank are before those with a greater one; the rank is cheaper to
// compare than the items.
func (t *tree[T]) load(rank func(T) uint64) (again T, equal bool) {
	type ranked struct {
		rank uint64
		item T
	}
	all := make([]ranked, len(t.pending))
	for i, item := range t.pending {
		all[i] = ranked{rank(item), item}
	}
	t.pending, t.collects = nil, false
	slices.SortFunc(all, func(a, b ranked) int {
		switch {
		case a.rank != b.rank:
			return cmp.Compare(a.rank, b.rank)
		case t.less(a.item, b.item):
			return -1
		case t.less(b.item, a.item):
			return 1
		}
		return 0
	})
	var nodes []*treeNode[T]
	var last *treeNode[T]
	for i, r := range all {
		if i > 0 && all[i-1].rank == r.rank && !t.less(all[i-1].item, r.item) {
			again, equal = r.item, true
			continue
		}
		if t.len%maxNodeItems == 0 {
			last = &treeNode[T]{owner: t.owner, items: make([]T, 0, min(maxNodeItems, len(all)-i))}
			nodes = append(nodes, last)
		}
		last.items = append(last.items, r.item)
		t.len++
	}
	for len(nodes) > 1 {
		var above []*treeNode[T]
		for children := range slices.Chunk(nodes, maxNodeItems) {
			n := &treeNode[T]{owner: t.owner, children: slices.Clone(children)}
			for _, child := range children {
				n.items = append(n.items, child.items[0])
			}
			above = append(above, n)
		}
		nodes = above
	}
	if len(nodes) == 1 {
		t.root = nodes[0]
	}
	return again, equal
}
