package scheduler

import (
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// slack is by how many attempts a node may be ahead of the least loaded one
// and still be preferred for what it has in its caches.
const slack = 1

// place answers the node for an attempt: one with room that has the runtime,
// among the least loaded ones always the same one for the same source, whose
// layers it may still have. The node to avoid is taken if there is no other.
func place(slots []*slot, runtime, locality, avoid string) *slot {
	if avoid != "" {
		others := slices.DeleteFunc(slices.Clone(slots), func(sl *slot) bool { return sl.node.Name == avoid })
		if to := place(others, runtime, locality, ""); to != nil {
			return to
		}
	}
	least := -1
	for _, sl := range slots {
		if sl.takes(runtime) && (least < 0 || sl.used < least) {
			least = sl.used
		}
	}
	var best *slot
	var weight uint64
	for _, sl := range slots {
		if !sl.takes(runtime) || sl.used > least+slack {
			continue
		}
		if w := rendezvous(sl.node, locality); best == nil || w > weight {
			best, weight = sl, w
		}
	}
	return best
}

// failedOn answers the node on which the last attempt of a build failed for
// want of something other than the build itself; "" if there is none.
func failedOn(b *imagebuilderv1.Build) string {
	if a := builds.LastAttempt(b); a.GetPhase() == builds.Failed && a.GetBlame() == builds.BlameInfrastructure {
		return a.Owner
	}
	return ""
}

func (sl *slot) takes(runtime string) bool {
	return sl.free > 0 && slices.Contains(sl.node.Runtimes, runtime)
}

// rendezvous is a node's weight for a key: the highest one wins, and when a
// node goes, only its keys move (Thaler and Ravishankar, 1998).
func rendezvous(n *buildsv1.Node, key string) uint64 {
	return xxhash.Sum64String(n.Name + "\x00" + key)
}

// locality is what builds with common layers have in common.
func locality(src *imagebuilderv1.Source) string {
	if ref := src.GetRef(); ref != nil {
		return ref.GetRef()
	}
	df := src.GetDockerfile()
	switch {
	case df.GetGit() != nil:
		return df.GetGit().GetRemoteUri()
	case df.GetDownload() != nil:
		return df.GetDownload().String()
	}
	return df.GetDockerfilePath() + "\x00" + df.GetTarget()
}

// ChooseCopy answers the node that should hold a further copy of a log: in
// another zone than the ones that do if there is any, nil if there is none
// left.
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
		w, fresh := rendezvous(n, key), n.Zone != "" && !zones[n.Zone]
		if best == nil || fresh && !bestNew || fresh == bestNew && w > weight {
			best, bestNew, weight = n, fresh, w
		}
	}
	return best
}

func CopyOf(n *buildsv1.Node) *imagebuilderv1.LogCopy {
	return &imagebuilderv1.LogCopy{Node: n.Name, StoreId: n.StoreId}
}

// copies answers the nodes for the log of a new attempt, its owner first; nil
// if there are too few nodes that could hold one now.
func (r rules) copies(owner *buildsv1.Node, alive []*buildsv1.Node, known int, key string) []*imagebuilderv1.LogCopy {
	out := []*imagebuilderv1.LogCopy{CopyOf(owner)}
	for len(out) < r.replicas {
		n := ChooseCopy(alive, out, key)
		if n == nil {
			break
		}
		out = append(out, CopyOf(n))
	}
	if len(out) < min(2, r.replicas, known) {
		return nil // nothing of the log could be shown
	}
	return out
}
