package refcache

import (
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	// maxTurnsPerHost limits the references of one registry host that a node resolves at the same
	// time.
	maxTurnsPerHost = 8
	// maxTurnsPerNode limits the references that a node resolves at the same time. It is larger, so
	// that a host that does not respond leaves room for others.
	maxTurnsPerNode = 64
	// batchSize limits the references in one command.
	batchSize = 256
	// turnTimeout is the time after which a turn is given to another node: this node runs, but
	// cannot commit its results. It is longer than any query of a registry.
	turnTimeout = 5 * time.Minute
)

// turns counts the turns of nodes. A turn is the order to a node to resolve a reference once.
type turns struct {
	all  map[string]int
	host map[string]int // by node, NUL, registry host
}

func (l turns) add(node, host string) {
	l.all[node]++
	l.host[node+"\x00"+host]++
}

func (l turns) full(node, host string) bool {
	return l.all[node] >= maxTurnsPerNode || l.host[node+"\x00"+host] >= maxTurnsPerHost
}

// choose returns the node with the fewest turns that is not full, or "" if there is none. Of equal
// nodes it returns the one with the highest weight for the reference.
func (l turns) choose(nodes []string, ref, host string) (best string) {
	var highest uint64
	for _, n := range nodes {
		if l.full(n, host) {
			continue
		}
		w := weight(n, ref)
		if best == "" || l.all[n] < l.all[best] || l.all[n] == l.all[best] && w > highest {
			best, highest = n, w
		}
	}
	return best
}

// decideRefreshes assigns references that are due to nodes. The references that have waited longest
// are first. wake is the time of the next decision if nothing changes, or zero if time alone
// changes no decision. decideRefreshes is pure.
func decideRefreshes(refs []*imagebuilderv1.CachedRef, nodes []*buildsv1.Node, now time.Time) (assign []*buildsv1.AssignRefreshes_Assignment, wake time.Time) {
	usable := usableNodes(nodes)
	l := turns{map[string]int{}, map[string]int{}}
	sooner := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	var due []*imagebuilderv1.CachedRef
	for _, r := range refs {
		at := time.Unix(0, builds.DueAt(r))
		if r.RefreshingBy != "" { // Apply ends the turns of a process that has ended
			if end := r.RefreshingSince.AsTime().Add(turnTimeout); now.Before(end) {
				l.add(r.RefreshingBy, hostOf(r.Ref))
				sooner(end)
				continue
			}
		}
		if at.After(now) {
			sooner(at)
			continue
		}
		due = append(due, r)
	}
	slices.SortFunc(due, func(a, b *imagebuilderv1.CachedRef) int {
		if x, y := builds.DueAt(a), builds.DueAt(b); x != y {
			return int(min(max(x-y, -1), 1))
		}
		return strings.Compare(a.Ref, b.Ref)
	})
	for _, r := range due {
		if len(assign) == batchSize {
			break
		}
		host := hostOf(r.Ref)
		node := l.choose(usable, r.Ref, host)
		if node == "" {
			continue // the result of a turn makes room, and it is a change of the state
		}
		l.add(node, host)
		assign = append(assign, &buildsv1.AssignRefreshes_Assignment{Ref: r.Ref, Owner: node, Turn: r.Turn, DueUnixNano: builds.DueAt(r)})
	}
	return assign, wake
}

// decidePrewarm returns the reference whose image is pulled next, or "". want has the digests by
// reference. Images that were not tried yet are first. wake is the time of the next retry if
// nothing changes, or zero if there is none. decidePrewarm is pure.
func decidePrewarm(want map[string]string, former map[string]pull, now time.Time) (next string, wake time.Time) {
	var at time.Time
	for ref, digest := range want {
		var due time.Time
		if p := former[ref]; p.digest == digest {
			if p.failures == 0 {
				continue
			}
			due = p.retryAt
		}
		if due.After(now) {
			if wake.IsZero() || due.Before(wake) {
				wake = due
			}
			continue
		}
		if c := due.Compare(at); next == "" || c < 0 || c == 0 && ref < next {
			next, at = ref, due
		}
	}
	return next, wake
}

// pull is the result of the last pull of a reference into one daemon.
type pull struct {
	digest   string
	failures int       // in a row; 0 if the daemon has the image
	retryAt  time.Time // after a failure
}

// backOff returns the pause after the nth failure in a row. It doubles from first up to most.
func backOff(n int, first, most time.Duration) time.Duration {
	return min(first<<min(n-1, 16), most)
}

// usableNodes returns the names of the nodes that may get references: they run and do not shut
// down. It returns drained nodes only if there are no others.
func usableNodes(nodes []*buildsv1.Node) []string {
	var all, drained []string
	for _, n := range nodes {
		switch {
		case n.Lost || n.Stopping:
		case n.Drained:
			drained = append(drained, n.Name)
		default:
			all = append(all, n.Name)
		}
	}
	if len(all) == 0 {
		return drained
	}
	return all
}

// closest returns the node with the highest weight for a reference, or "" if there are no nodes.
func closest(nodes []string, ref string) (best string) {
	var highest uint64
	for _, n := range nodes {
		if w := weight(n, ref); best == "" || w > highest {
			best, highest = n, w
		}
	}
	return best
}

// weight returns the weight of a node for a reference (rendezvous hashing).
func weight(node, ref string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node + "\x00" + ref))
	return h.Sum64()
}

// hostOf returns the registry host of a normalised reference.
func hostOf(ref string) string {
	host, _, _ := strings.Cut(ref, "/")
	return host
}
