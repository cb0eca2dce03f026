package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/internal/ctxutil"
)

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
