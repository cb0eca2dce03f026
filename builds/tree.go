package builds

import "slices"

const (
	// maxNodeItems is the greatest number of items, or of children, of a node of a tree.
	maxNodeItems = 64
	// nodeSpare is the number of items for which a full node gets more room.
	nodeSpare = 8
)

// tree is an ordered set whose copies share memory: a B+ tree. A change copies those nodes on the
// way to an item that another copy of the tree has too.
//
// The state has several trees of all builds, so their memory matters. A tree that receives its
// items in order has full nodes, unlike one of package btree, whose nodes are then half full. It
// refers to no item that was replaced or deleted.
type tree[T any] struct {
	less  func(a, b T) bool
	root  *treeNode[T] // nil in an empty tree
	len   int
	owner *treeOwner // of the nodes that no other tree has

	collects bool // Set only adds to pending; see collect
	pending  []T
}

// treeOwner identifies a tree.
type treeOwner struct{ _ byte }

// treeNode is a leaf, which has no children, or an inner node. An inner node has the first item of
// each child, in the order of the children. No node but the root is empty.
type treeNode[T any] struct {
	owner    *treeOwner
	items    []T
	children []*treeNode[T]
}

func newTree[T any](less func(a, b T) bool) *tree[T] {
	return &tree[T]{less: less, owner: new(treeOwner)}
}

// Copy returns a copy that later changes do not touch. It takes the same time for all sizes.
func (t *tree[T]) Copy() *tree[T] {
	c := *t
	t.owner, c.owner = new(treeOwner), new(treeOwner)
	return &c
}

// Len returns the number of items.
func (t *tree[T]) Len() int { return t.len }

// Get returns the item that is equal to item.
func (t *tree[T]) Get(item T) (found T, ok bool) {
	for n := t.root; n != nil; {
		i, equal := t.find(n, item)
		if n.children == nil {
			if equal {
				return n.items[i], true
			}
			break
		}
		n = n.children[max(i, 0)]
	}
	return found, false
}

// Min returns the first item.
func (t *tree[T]) Min() (first T, ok bool) {
	if t.root == nil {
		return first, false
	}
	return t.root.items[0], true
}

// Set adds an item, or replaces the item that is equal to it, which it returns.
func (t *tree[T]) Set(item T) (old T, replaced bool) {
	if t.collects {
		t.pending = append(t.pending, item)
		return old, false
	}
	if t.root == nil {
		t.root = &treeNode[T]{owner: t.owner}
	}
	t.root = t.own(t.root)
	old, replaced, right := t.set(t.root, item)
	if right != nil {
		t.root = &treeNode[T]{t.owner, []T{t.root.items[0], right.items[0]}, []*treeNode[T]{t.root, right}}
	}
	if !replaced {
		t.len++
	}
	return old, replaced
}

// Delete removes the item that is equal to item, and returns it.
func (t *tree[T]) Delete(item T) (old T, ok bool) {
	if old, ok = t.Get(item); !ok {
		return old, false
	}
	t.root = t.own(t.root)
	t.delete(t.root, item)
	t.len--
	for len(t.root.children) == 1 {
		t.root = t.root.children[0]
	}
	if t.len == 0 {
		t.root = nil
	}
	return old, true
}

// Scan calls f with all items in order until f returns false.
func (t *tree[T]) Scan(f func(T) bool) {
	if t.root != nil {
		t.ascend(t.root, nil, f)
	}
}

// Ascend calls f with pivot and the items after it, in order, until f returns false.
func (t *tree[T]) Ascend(pivot T, f func(T) bool) {
	if t.root != nil {
		t.ascend(t.root, &pivot, f)
	}
}

// Reverse calls f with all items, last item first, until f returns false.
func (t *tree[T]) Reverse(f func(T) bool) {
	if t.root != nil {
		t.descend(t.root, nil, f)
	}
}

// Descend calls f with pivot and the items before it, last item first, until f returns false.
func (t *tree[T]) Descend(pivot T, f func(T) bool) {
	if t.root != nil {
		t.descend(t.root, &pivot, f)
	}
}

// find returns the place of the last item of a node that is not after item, or -1, and whether the
// two are equal.
func (t *tree[T]) find(n *treeNode[T], item T) (i int, equal bool) {
	low, high := 0, len(n.items)
	for low < high {
		middle := (low + high) / 2
		if t.less(item, n.items[middle]) {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low - 1, low > 0 && !t.less(n.items[low-1], item)
}

// own returns the node, or a copy of it if another tree may have it.
func (t *tree[T]) own(n *treeNode[T]) *treeNode[T] {
	if n.owner == t.owner {
		return n
	}
	return &treeNode[T]{t.owner, slices.Clone(n.items), slices.Clone(n.children)}
}

// set is Set for the items below a node of this tree. right is not nil if the node had no room: it
// then has the greater items.
func (t *tree[T]) set(n *treeNode[T], item T) (old T, replaced bool, right *treeNode[T]) {
	i, equal := t.find(n, item)
	if n.children == nil {
		if equal {
			old, n.items[i] = n.items[i], item
			return old, true, nil
		}
		return old, false, t.insert(n, i+1, item, nil)
	}
	i = max(i, 0)
	child := t.own(n.children[i])
	old, replaced, split := t.set(child, item)
	n.children[i], n.items[i] = child, child.items[0]
	if split != nil {
		right = t.insert(n, i+1, split.items[0], split)
	}
	return old, replaced, right
}

// insert adds an item at a place of a node, together with the child that begins with it if the node
// is not a leaf. A full node keeps the smaller items, and right has the others.
func (t *tree[T]) insert(n *treeNode[T], at int, item T, child *treeNode[T]) (right *treeNode[T]) {
	if len(n.items) == maxNodeItems {
		keep := maxNodeItems / 2
		if at == maxNodeItems { // items come in order, so that the node stays full
			keep = maxNodeItems
		}
		right = &treeNode[T]{owner: t.owner, items: slices.Clone(n.items[keep:])}
		n.items = slices.Clone(n.items[:keep])
		if child != nil {
			right.children = slices.Clone(n.children[keep:])
			n.children = slices.Clone(n.children[:keep])
		}
		if at > keep || keep == maxNodeItems {
			n, at = right, at-keep
		}
	}
	n.items = insertAt(n.items, at, item)
	if child != nil {
		n.children = insertAt(n.children, at, child)
	}
	return right
}

func insertAt[E any](s []E, at int, e E) []E {
	if len(s) == cap(s) {
		s = append(make([]E, 0, len(s)+nodeSpare), s...)
	}
	return slices.Insert(s, at, e)
}

// delete removes an item that is below a node of this tree.
func (t *tree[T]) delete(n *treeNode[T], item T) {
	i, _ := t.find(n, item)
	if n.children == nil {
		n.items = slices.Delete(n.items, i, i+1)
		return
	}
	child := t.own(n.children[i])
	n.children[i] = child
	t.delete(child, item)
	if len(child.items) == 0 {
		n.removeChild(i)
		return
	}
	n.items[i] = child.items[0]
	for _, left := range []int{i - 1, i} {
		if left >= 0 && left+1 < len(n.children) && len(n.children[left].items)+len(n.children[left+1].items) <= maxNodeItems/2 {
			t.join(n, left)
			return
		}
	}
}

// join moves the content of the child after left into left.
func (t *tree[T]) join(n *treeNode[T], left int) {
	a, b := t.own(n.children[left]), n.children[left+1]
	a.items = append(a.items, b.items...)
	if b.children != nil {
		a.children = append(a.children, b.children...)
	}
	n.children[left] = a
	n.removeChild(left + 1)
}

func (n *treeNode[T]) removeChild(i int) {
	n.items = slices.Delete(n.items, i, i+1)
	n.children = slices.Delete(n.children, i, i+1)
}

// ascend calls f with the items below a node from pivot on, or with all if pivot is nil. It returns
// false once f has.
func (t *tree[T]) ascend(n *treeNode[T], pivot *T, f func(T) bool) bool {
	first := 0
	if pivot != nil {
		i, equal := t.find(n, *pivot)
		if first = i; n.children == nil && !equal {
			first++
		}
		first = max(first, 0)
	}
	if n.children == nil {
		for _, item := range n.items[first:] {
			if !f(item) {
				return false
			}
		}
		return true
	}
	for i, child := range n.children[first:] {
		if i > 0 {
			pivot = nil
		}
		if !t.ascend(child, pivot, f) {
			return false
		}
	}
	return true
}

// descend is ascend in the other direction, from pivot back.
func (t *tree[T]) descend(n *treeNode[T], pivot *T, f func(T) bool) bool {
	last := len(n.items) - 1
	if pivot != nil {
		last, _ = t.find(n, *pivot)
	}
	for i := last; i >= 0; i-- {
		if n.children == nil {
			if !f(n.items[i]) {
				return false
			}
			continue
		}
		if i < last {
			pivot = nil
		}
		if !t.descend(n.children[i], pivot, f) {
			return false
		}
	}
	return true
}
