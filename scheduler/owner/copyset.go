package owner

import (
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// holders returns the nodes that can hold a copy of a log now. This node is always one of them.
func (o *Owner) holders(view *builds.State) (out []*buildsv1.Node) {
	view.Nodes(func(n *buildsv1.Node) bool {
		if !n.Lost && !n.Drained && !n.Stopping || n.Name == o.opts.Node {
			out = append(out, n)
		}
		return true
	})
	return out
}

// liveHolders returns the nodes that can hold a copy of a live log now. Drained nodes are among them if
// the log would have no second copy otherwise.
func (o *Owner) liveHolders(view *builds.State) []*buildsv1.Node {
	nodes := o.holders(view)
	if lacksHolders(view) {
		view.Nodes(func(n *buildsv1.Node) bool {
			if n.Drained && !n.Lost && !n.Stopping && n.Name != o.opts.Node {
				nodes = append(nodes, n)
			}
			return true
		})
	}
	return nodes
}

// lacksHolders reports whether fewer than two nodes run that are not drained.
func lacksHolders(view *builds.State) bool {
	n := 0
	view.Nodes(func(x *buildsv1.Node) bool {
		if !x.Lost && !x.Drained && !x.Stopping {
			n++
		}
		return true
	})
	return n < 2
}

// otherCopies returns the copies of a log on other nodes that are not lost.
func (o *Owner) otherCopies(a *imagebuilderv1.Attempt) (out []*imagebuilderv1.LogCopy) {
	view := o.opts.Store.View()
	for _, c := range builds.CopiesOf(a) {
		if n := view.Node(c.Node); n != nil && n.StoreId == c.StoreId && !n.Lost && !o.isThis(c.Node, c.StoreId) {
			out = append(out, c)
		}
	}
	return out
}

// mustReplace reports whether a copy of a live log must be replaced. Its node was removed, wiped,
// lost or drained, it refuses appends, or it has not responded for ReplaceAfter. A drained node keeps
// its copy while no other node can hold it.
func (o *Owner) mustReplace(view *builds.State, s logs.CopyStatus) bool {
	n := view.Node(s.Node)
	return n == nil || n.StoreId != s.StoreID || n.Lost || n.Drained && !lacksHolders(view) || s.Refusal != nil ||
		!s.Failing.IsZero() && time.Since(s.Failing) > o.opts.ReplaceAfter
}

// without returns the copies that are not in lost.
func without(copies []*imagebuilderv1.LogCopy, lost []logs.Copy) (out []*imagebuilderv1.LogCopy) {
	for _, c := range copies {
		if !contains(lost, c) {
			out = append(out, c)
		}
	}
	return out
}

// withoutWiped returns the copies whose node was not wiped: its data directory is still the same.
func withoutWiped(view *builds.State, copies []*imagebuilderv1.LogCopy) (out []*imagebuilderv1.LogCopy) {
	for _, c := range copies {
		if n := view.Node(c.Node); n == nil || n.StoreId == c.StoreId {
			out = append(out, c)
		}
	}
	return out
}

func contains(copies []logs.Copy, c *imagebuilderv1.LogCopy) bool {
	for _, x := range copies {
		if x.Node == c.Node && x.StoreID == c.StoreId {
			return true
		}
	}
	return false
}

// copiesOf converts copies of the state.
func copiesOf(in []*imagebuilderv1.LogCopy) (out []logs.Copy) {
	for _, c := range in {
		out = append(out, logs.Copy{Node: c.Node, StoreID: c.StoreId})
	}
	return out
}
