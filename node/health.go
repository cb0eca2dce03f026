package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
)

// watchReadiness updates the readiness until ctx ends, even while nobody requests /ready.
func (n *Node) watchReadiness(ctx context.Context) error {
	for {
		n.readiness.update(time.Now(), n.cluster.Status())
		if !ctxutil.Sleep(ctx, max(n.readiness.readyAfter/10, 20*time.Millisecond)) {
			return nil
		}
	}
}

// serveLive handles /live. It returns 200 while the process can serve a request, whatever the state
// of the cluster is.
func (n *Node) serveLive(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "live")
}

// serveReady handles /ready. It returns 200 if clients should use this node, otherwise 503 with a
// line for each reason. The lines after "ready" are problems that another node would have as well.
func (n *Node) serveReady(w http.ResponseWriter, _ *http.Request) {
	reasons := n.readiness.reasons(time.Now(), n.cluster.Status())
	if len(reasons) == 0 && n.cluster.Reached().Err() != nil {
		reasons = append(reasons, errUnreached.Error())
	}
	if err := n.cluster.Trouble(); err != nil {
		reasons = append(reasons, err.Error())
	}
	reasons = append(reasons, n.lostReasons()...)
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
	fmt.Fprintln(w, strings.Join(append([]string{"ready"}, n.healthProblems()...), "\n"))
}

// stallLimit is how long the oldest write of a ready node may be in progress.
const stallLimit = 2 * time.Second

// hangs returns an error if this node does not finish a write or a command.
func (n *Node) hangs() error {
	if s := n.cluster.Stalled(); s.For > stallLimit {
		return errors.New(s.String())
	}
	return nil
}

// lostReasons returns why the cluster considers this node lost, or is about to: it makes no
// progress, the leader reports it as silent, or the state records it as lost.
func (n *Node) lostReasons() (out []string) {
	if err := n.hangs(); err != nil && n.cluster.Trouble() == nil { // Trouble reports writes of the replicated log
		out = append(out, err.Error())
	}
	if err := n.cluster.Silenced(); err != nil {
		out = append(out, err.Error())
	}
	n.store.Read(func(s *builds.State) {
		if me := s.Node(n.cfg.Name); me.GetLost() && me.GetStoreId() == n.cluster.StoreID() {
			out = append(out, "the cluster takes this node for lost: it did not respond, or made no progress")
		}
	})
	return out
}

// healthProblems returns, sorted, the problems of runtimes and of the workspaces of another image
// builder that an operator should know about.
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
