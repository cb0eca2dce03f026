package scheduler

import (
	"fmt"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Waiting explains why queued builds wait, by the rules of decide and one state. It works on any
// node. The leader also knows which nodes do not respond, some moments before the state shows it.
type Waiting struct {
	state *builds.State
	now   time.Time
	rules rules
	slots []*slot
	nodes holders
	total int // number of live builds
}

// NewWaiting returns the reasons in a state. runtime returns the name of the runtime for a source,
// and replicas is the number of nodes that hold each log.
func NewWaiting(s *builds.State, now time.Time, runtime func(*imagebuilderv1.Source) string, replicas int) *Waiting {
	if s.Level() < 2 {
		replicas = 0
	}
	w := &Waiting{state: s, now: now, rules: rules{
		alive:   func(n *buildsv1.Node) bool { return !n.Lost && !n.Stopping },
		runtime: runtime, replicas: replicas,
	}}
	w.slots, w.total = load(s, w.rules), s.Counts().Live
	w.nodes = nodes(s, w.rules, w.slots)
	return w
}

// Reason returns the reason why a build waits, for a person. It returns "" if the build does not
// wait or is about to start.
func (w *Waiting) Reason(r *buildsv1.Record) string {
	b, set := r.Build, w.state.Settings()
	runtime := w.rules.runtime(b.Source)
	if b.Phase != builds.Queued {
		return ""
	}
	if r.Successor {
		active := w.state.Active(b.Ref)
		if active.GetStopReason() == buildsv1.StopReason_STOP_REASON_UNSPECIFIED {
			return fmt.Sprintf("build %s of the same image, which began before this forced request, has to end first", active.GetBuild().GetId())
		}
		return fmt.Sprintf("build %s of the same image, which is being stopped, has to end first", active.GetBuild().GetId())
	}
	if t := b.NotBefore; t != nil && w.now.Before(t.AsTime()) {
		return fmt.Sprintf("attempt %d failed; the next one begins at %s", len(b.Attempts), t.AsTime().UTC().Format(time.RFC3339))
	}
	if set.RunningTotal > 0 && w.total >= int(set.RunningTotal) {
		return fmt.Sprintf("the limit of running builds is reached (builds.runningTotal, %d)", set.RunningTotal)
	}
	if limit := set.RunningPerRequester; limit > 0 && w.state.Running(b.Requester) >= int(limit) {
		return fmt.Sprintf("the limit of running builds of this requester is reached (builds.runningPerRequester, %d)", limit)
	}
	if !slices.ContainsFunc(w.slots, func(sl *slot) bool { return slices.Contains(sl.node.Runtimes, runtime) }) {
		return fmt.Sprintf("no node that is up and not drained has the runtime %s", runtime)
	}
	to := place(w.slots, runtime, locality(b.Source), "")
	if to == nil {
		return "all nodes that can run it are full (builds.runningPerNode)"
	}
	if w.rules.replicas > 0 && w.rules.copies(to.node, w.nodes, b.Id) == nil {
		return "no second node is up that can hold its log (logs.copies)"
	}
	return ""
}
