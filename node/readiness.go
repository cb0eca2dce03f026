package node

import (
	"fmt"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// readiness decides from the times at which a leader was known whether the node is ready. A node
// becomes ready after a leader has been known for readyAfter, so that a rolling restart waits for
// the elections that it causes. A node that is ready stays ready for lostTimeout without a leader,
// because an election takes less time than clients need to find another node.
type readiness struct {
	readyAfter, lostTimeout time.Duration

	mu         sync.Mutex
	knownSince time.Time // when a leader became known; zero if none is known
	lostSince  time.Time // when the last leader was lost; zero if one is known
	ready      bool
}

// lagLimit is the number of committed entries that a ready node may not have applied yet.
const lagLimit = 1000

// update records the status of the cluster at a time.
func (r *readiness) update(now time.Time, st cluster.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st.LeaderID == "" {
		if r.lostSince.IsZero() {
			r.lostSince = now
		}
		r.knownSince = time.Time{}
		r.ready = r.ready && now.Sub(r.lostSince) <= r.lostTimeout
		return
	}
	r.lostSince = time.Time{}
	if r.knownSince.IsZero() {
		r.knownSince = now
	}
	r.ready = r.ready || now.Sub(r.knownSince) >= r.readyAfter
}

// reasons returns why clients should not be sent to this node; none if it is ready.
func (r *readiness) reasons(now time.Time, st cluster.Status) (out []string) {
	r.update(now, st)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ready:
	case st.LeaderID == "":
		out = append(out, "no leader is known: writes wait or are refused, reads may be stale")
	default:
		out = append(out, fmt.Sprintf("the leader %s is known for %s only, less than %s (ready.after)", st.LeaderName, now.Sub(r.knownSince).Round(time.Millisecond), r.readyAfter))
	}
	if st.Behind > lagLimit {
		out = append(out, fmt.Sprintf("%d entries of the log are not applied yet", st.Behind))
	}
	return out
}
