package scheduler

import (
	"slices"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/placement"
)

// localitySlack is the number of attempts by which a node may exceed the least loaded one and still
// be preferred for its caches.
const localitySlack = 1

// slot is the capacity of one node for attempts.
type slot struct {
	node *buildsv1.Node
	free int
	used int
}

// accepts reports whether the node has the runtime and a free place.
func (sl *slot) accepts(runtime string) bool {
	return sl.free > 0 && slices.Contains(sl.node.Runtimes, runtime)
}

// place returns the node for an attempt, or nil if no node accepts it. Among the least loaded nodes
// it chooses the same one for the same locality, because this node may still have the layers. It
// chooses the node avoid only if there is no other.
func place(slots []*slot, runtime, locality, avoid string) *slot {
	if avoid != "" {
		others := slices.DeleteFunc(slices.Clone(slots), func(sl *slot) bool { return sl.node.Name == avoid })
		if to := place(others, runtime, locality, ""); to != nil {
			return to
		}
	}
	least := -1
	for _, sl := range slots {
		if sl.accepts(runtime) && (least < 0 || sl.used < least) {
			least = sl.used
		}
	}
	var best *slot
	var weight uint64
	for _, sl := range slots {
		if !sl.accepts(runtime) || sl.used > least+localitySlack {
			continue
		}
		if w := placement.Weight(sl.node, locality); best == nil || w > weight {
			best, weight = sl, w
		}
	}
	return best
}

// failedOn returns the node on which the last attempt of a build failed because of the
// infrastructure, or "".
func failedOn(b *imagebuilderv1.Build) string {
	if a := builds.LastAttempt(b); a.GetPhase() == builds.Failed && a.GetBlame() == builds.BlameInfrastructure {
		return a.Owner
	}
	return ""
}

// locality returns a key that is the same for sources that are likely to have common layers.
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
