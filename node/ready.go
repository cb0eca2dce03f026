package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
)

// readiness remembers for how long a leader has been known. A node that was
// never ready waits until that was so for a while, so that a rolling restart
// does not run ahead of the elections that it causes; one that is ready stays
// so through an election, which takes less time than clients need to go
// elsewhere.
type readiness struct {
	readyAfter, lostTimeout time.Duration

	mu    sync.Mutex
	knownSince time.Time // a leader is known; zero: none is
	lostSince  time.Time // none is known; zero: one is
	ready   bool      // it was ready, and no leader has been missing for long
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

// watchReadiness looks at the leader also while nobody asks.
func (n *Node) watchReadiness(ctx context.Context) error {
	for {
		n.readiness.update(time.Now(), n.cluster.Status())
		if !ctxutil.Sleep(ctx, max(n.readiness.readyAfter/10, 20*time.Millisecond)) {
			return nil
		}
	}
}

// live says that the process works, whatever the rest of the cluster does.
func (n *Node) serveLive(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "live")
}

// ready says whether clients should come here, with a line for each reason
// against it.
func (n *Node) serveReady(w http.ResponseWriter, _ *http.Request) {
	reasons := n.readiness.reasons(time.Now(), n.cluster.Status())
	if err := n.cluster.Trouble(); err != nil {
		reasons = append(reasons, err.Error())
	}
	if !n.started.Load() {
		reasons = append(reasons, "this process is not yet registered in the replicated state")
	}
	if n.stopping.Load() || n.work.Err() != nil {
		reasons = append(reasons, "the node shuts down")
	}
	if len(reasons) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, strings.Join(reasons, "\n"))
		return
	}
	// What clients can still do nothing about, and nothing is lost by.
	fmt.Fprintln(w, strings.Join(append([]string{"ready"}, n.healthProblems()...), "\n"))
}

// troubles are what keeps runtimes from running builds, and what an operator
// should know about them.
func (n *Node) healthProblems() (out []string) {
	for _, r := range n.runtimes {
		if t, ok := r.(interface{ Trouble() error }); ok {
			if err := t.Trouble(); err != nil {
				out = append(out, err.Error())
			}
		}
	}
	if note := n.foreign.message(); note != "" {
		out = append(out, note)
	}
	slices.Sort(out)
	return out
}
