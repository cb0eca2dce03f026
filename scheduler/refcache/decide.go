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
	// refreshesPerHost is how many references of one registry host a node
	// resolves at a time.
	refreshesPerHost = 8
	// refreshesPerNode is how many in all, so that a host that hangs leaves room
	// for others.
	refreshesPerNode = 64
	// refreshBatch bounds one command.
	refreshBatch = 256
	// refreshPatience is how long a turn may take until another node gets it: a
	// node that lives and cannot tell its results. Longer than any look-up.
	refreshPatience = 5 * time.Minute
)

// turns counts the turns of nodes, in all and by host.
type turns struct {
	all  map[string]int
	host map[string]int // by node, NUL, host
}

func (l turns) add(node, host string) {
	l.all[node]++
	l.host[node+"\x00"+host]++
}

func (l turns) full(node, host string) bool {
	return l.all[node] >= refreshesPerNode || l.host[node+"\x00"+host] >= refreshesPerHost
}

// decideRefreshes gives the references that are due to nodes, those first that
// have waited longest, and answers when there is more to decide if nothing
// changes; zero for never. It is pure.
func decideRefreshes(refs []*imagebuilderv1.CachedRef, nodes []*buildsv1.Node, now time.Time) (assign []*buildsv1.AssignRefreshes_Assignment, wake time.Time) {
	usable := refreshers(nodes)
	l := turns{map[string]int{}, map[string]int{}}
	sooner := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	var due []*imagebuilderv1.CachedRef
	for _, r := range refs {
		at := time.Unix(0, builds.DueAt(r))
		if r.RefreshingBy != "" { // the end of its node ends the turn
			if end := r.RefreshingSince.AsTime().Add(refreshPatience); now.Before(end) {
				l.add(r.RefreshingBy, hostOfRef(r.Ref))
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
		if len(assign) == refreshBatch {
			break
		}
		host := hostOfRef(r.Ref)
		node := l.choose(usable, r.Ref, host)
		if node == "" {
			continue // results make room, and are a change
		}
		l.add(node, host)
		assign = append(assign, &buildsv1.AssignRefreshes_Assignment{Ref: r.Ref, Owner: node, Turn: r.Turn, DueUnixNano: builds.DueAt(r)})
	}
	return assign, wake
}

// refreshers are the nodes that references may be given to: those that run, and
// are not about to end; drained ones only if there are no others.
func refreshers(nodes []*buildsv1.Node) []string {
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

// choose answers the node with the fewest turns that has room, of several the
// one that the reference's name picks (rendezvous), or "" for none.
func (l turns) choose(nodes []string, ref, host string) (best string) {
	var weight uint64
	for _, n := range nodes {
		if l.full(n, host) {
			continue
		}
		w := affinity(n, ref)
		if best == "" || l.all[n] < l.all[best] || l.all[n] == l.all[best] && w > weight {
			best, weight = n, w
		}
	}
	return best
}

func affinity(node, ref string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node + "\x00" + ref))
	return h.Sum64()
}

// hostOfRef is the registry of a normalised reference.
func hostOfRef(ref string) string {
	host, _, _ := strings.Cut(ref, "/")
	return host
}
