package placement

import (
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Weight returns the weight of a node for a key. The node with the highest weight is the choice for
// the key. If a node is removed, only the keys of this node get another choice (rendezvous hashing,
// Thaler and Ravishankar, 1998).
func Weight(n *buildsv1.Node, key string) uint64 {
	return xxhash.Sum64String(n.Name + "\x00" + key)
}

// CopyOf returns the name of a copy of a log on a node.
func CopyOf(n *buildsv1.Node) *imagebuilderv1.LogCopy {
	return &imagebuilderv1.LogCopy{Node: n.Name, StoreId: n.StoreId}
}

// ChooseCopy returns the node for a further copy of a log. It prefers a node in a zone without a
// copy. have are the copies that exist, and key is the id of the build. It returns nil if every
// node has a copy.
func ChooseCopy(nodes []*buildsv1.Node, have []*imagebuilderv1.LogCopy, key string) *buildsv1.Node {
	zones := map[string]bool{}
	holds := map[string]bool{}
	for _, c := range have {
		holds[c.Node] = true
	}
	for _, n := range nodes {
		if holds[n.Name] && n.Zone != "" {
			zones[n.Zone] = true
		}
	}
	var best *buildsv1.Node
	var bestNew bool
	var weight uint64
	for _, n := range nodes {
		if holds[n.Name] {
			continue
		}
		w, fresh := Weight(n, key), n.Zone != "" && !zones[n.Zone]
		if best == nil || fresh && !bestNew || fresh == bestNew && w > weight {
			best, bestNew, weight = n, fresh, w
		}
	}
	return best
}

// SoundCopies divides the copies of a log. keep are the copies that count. lost are the copies that
// must be replaced: their node was removed, wiped or drained, or has been lost for longer than
// repairAfter. leaving are the lost copies on drained nodes that still run, which can be read.
func SoundCopies(view *builds.State, now time.Time, repairAfter time.Duration, a *imagebuilderv1.Attempt) (keep, lost, leaving []*imagebuilderv1.LogCopy) {
	copies := a.Log.GetCopies()
	for i, c := range copies {
		n := view.Node(c.Node)
		switch {
		case n == nil || n.StoreId != c.StoreId:
			lost = append(lost, c)
		case n.Lost && now.Sub(time.Unix(0, n.LostUnixNano)) > repairAfter:
			lost = append(lost, c)
		case n.Drained:
			lost = append(lost, c)
			if !n.Lost {
				leaving = append(leaving, c)
			}
		case len(keep) == i: // mostly all copies count
			keep = copies[: i+1 : i+1]
		default:
			keep = append(keep, c)
		}
	}
	return keep, lost, leaving
}
