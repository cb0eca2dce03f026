package node

import (
	"fmt"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// readiness remembers for how long a leader has been known. A node that was
// never ready waits until that was so for a while, so that a rolling restart
// does not run ahead of the elections that it causes; one that is ready stays
// so through an election, which takes less time than clients need to go
// elsewhere.
type readiness struct {
	readyAfter, lostTimeout time.Duration

	mu         sync.Mutex
	knownSince time.Time // a leader is known; zero: none is
	lostSince  time.Time // none is known; zero: one is
	ready      bool      // it was ready, and no leader has been missing for long
}

// lagLimit is how many entries a node may have to apply and still be ready.
const lagLimit = 1000

// see takes up how the node sees the cluster now.
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

// reasons are what speaks against sending clients here.
func (r *readiness) reasons(now time.Time, st cluster.Status) (out []string) {
	r.update(now, st)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ready:
	case st.LeaderID == "":
		out = append(out, "no leader is known: writes wait, reads may be stale")
	default:
		out = append(out, fmt.Sprintf("the leader %s is known for %s only, less than %s (ready.after)", st.LeaderName, now.Sub(r.knownSince).Round(time.Millisecond), r.readyAfter))
	}
	if st.Behind > lagLimit {
		out = append(out, fmt.Sprintf("%d entries of the log are not applied yet", st.Behind))
	}
	return out
}
