package builds

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Test_Tree compares a tree with a sorted slice, and checks that changes do not touch its copies.
func Test_Tree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tr := newTree(func(a, b [2]int) bool { return a[0] < b[0] })
		var want [][2]int
		version := 0
		type frozen struct {
			tree *tree[[2]int]
			want [][2]int
		}
		var copies []frozen
		find := func(key int) (int, bool) {
			return slices.BinarySearchFunc(want, key, func(e [2]int, key int) int { return e[0] - key })
		}
		set := func(key int) {
			version++
			item := [2]int{key, version}
			old, replaced := tr.Set(item)
			i, found := find(key)
			if replaced != found || found && old != want[i] {
				rt.Fatalf("Set(%v) returned %v, %t", item, old, replaced)
			}
			if found {
				want[i] = item
			} else {
				want = slices.Insert(want, i, item)
			}
		}
		del := func(key int) {
			old, ok := tr.Delete([2]int{key, 0})
			i, found := find(key)
			if ok != found || found && old != want[i] {
				rt.Fatalf("Delete(%d) returned %v, %t", key, old, ok)
			}
			if found {
				want = slices.Delete(want, i, i+1)
			}
		}
		if rapid.Bool().Draw(rt, "load") {
			tr.collect()
			for i := range rapid.IntRange(0, 9000).Draw(rt, "collected") {
				item := [2]int{i * 7919 % 9001, 0}
				want = append(want, item)
				tr.Set(item)
			}
			slices.SortFunc(want, func(a, b [2]int) int { return a[0] - b[0] })
			if again, equal := tr.load(func(item [2]int) uint64 { return uint64(item[0] / 10) }); equal {
				rt.Fatalf("%v is there twice", again)
			}
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			first, n := rapid.IntRange(0, 9000).Draw(rt, "first"), rapid.IntRange(1, 3000).Draw(rt, "count")
			step := rapid.SampledFrom([]int{1, -1, 7, 2011}).Draw(rt, "step")
			op := rapid.SampledFrom([]func(int){set, set, del}).Draw(rt, "operation")
			for i := range n {
				op(((first+i*step)%9001 + 9001) % 9001)
			}
			if rapid.Bool().Draw(rt, "copy") {
				copies = append(copies, frozen{tr.Copy(), slices.Clone(want)})
			}
		}
		pivot := rapid.IntRange(-1, 9002).Draw(rt, "pivot")
		for _, c := range append(copies, frozen{tr, want}) {
			checkTree(rt, c.tree, c.want, pivot)
		}
	})
}

func checkTree(t *rapid.T, tr *tree[[2]int], want [][2]int, pivot int) {
	var items, back, after, before [][2]int
	into := func(s *[][2]int) func([2]int) bool {
		return func(item [2]int) bool { *s = append(*s, item); return true }
	}
	tr.Scan(into(&items))
	tr.Reverse(into(&back))
	tr.Ascend([2]int{pivot, 0}, into(&after))
	tr.Descend([2]int{pivot, 0}, into(&before))
	slices.Reverse(back)
	slices.Reverse(before)
	if !slices.Equal(items, want) || !slices.Equal(back, want) || tr.Len() != len(want) {
		t.Fatalf("the tree has %d items, %d of them in order and %d backwards, want %d", tr.Len(), len(items), len(back), len(want))
	}
	from, found := slices.BinarySearchFunc(want, pivot, func(e [2]int, key int) int { return e[0] - key })
	until := from
	if found {
		until++
	}
	if !slices.Equal(after, want[from:]) || !slices.Equal(before, want[:until]) {
		t.Fatalf("from %d on the tree has %d items, want %d; back from it %d, want %d", pivot, len(after), len(want)-from, len(before), until)
	}
	if got, ok := tr.Get([2]int{pivot, 0}); ok != found || found && got != want[from] {
		t.Fatalf("Get(%d) returned %v, %t", pivot, got, ok)
	}
	if first, ok := tr.Min(); ok != (len(want) > 0) || ok && first != want[0] {
		t.Fatalf("the first item is %v, %t", first, ok)
	}
}

// Test_Tree_InOrder: items in order, and items that replace them, fill the nodes.
func Test_Tree_InOrder(t *testing.T) {
	tr := newTree(func(a, b int) bool { return a < b })
	const n = 100_000
	for range 2 {
		for i := range n {
			tr.Set(i)
		}
	}
	leaves, room := 0, 0
	var count func(*treeNode[int])
	count = func(node *treeNode[int]) {
		if node.children == nil {
			leaves, room = leaves+1, room+cap(node.items)
		}
		for _, c := range node.children {
			count(c)
		}
	}
	count(tr.root)
	if leaves > n/maxNodeItems+1 || room > n+maxNodeItems {
		t.Errorf("%d items are in %d leaves with room for %d", n, leaves, room)
	}
}

// Test_Tree_Load: of equal items, a tree keeps one and returns another.
func Test_Tree_Load(t *testing.T) {
	tr := newTree(func(a, b int) bool { return a < b })
	tr.collect()
	for _, item := range []int{3, 1, 2, 3, 1} {
		tr.Set(item)
	}
	if again, equal := tr.load(func(int) uint64 { return 0 }); !equal || again != 3 {
		t.Errorf("load returned %d, %t", again, equal)
	}
	var items []int
	tr.Scan(func(item int) bool { items = append(items, item); return true })
	if !slices.Equal(items, []int{1, 2, 3}) || tr.Len() != 3 {
		t.Errorf("the tree has %d items: %v", tr.Len(), items)
	}
}
