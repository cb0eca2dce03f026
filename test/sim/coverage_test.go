package sim

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
)

// coverage counts the states that simulations have reached. States are the messages in the logs of
// nodes, which report every unusual event, and events that clients have met. A run that reaches no
// new state shows nothing new.
type coverage struct {
	mu           sync.Mutex
	counts       map[string]int
	runs         []string
	firstReached map[string][]string
}

// add adds the states that a run has reached.
func (c *coverage) add(run string, reached map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts, c.firstReached = map[string]int{}, map[string][]string{}
	}
	c.runs = append(c.runs, run)
	for _, what := range slices.Sorted(maps.Keys(reached)) {
		if c.counts[what] == 0 {
			c.firstReached[run] = append(c.firstReached[run], what)
		}
		c.counts[what] += reached[what]
	}
}

// missing returns those of the states that no run has reached.
func (c *coverage) missing(states []string) (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, what := range states {
		if c.counts[what] == 0 {
			out = append(out, what)
		}
	}
	return out
}

// String returns a table of all states with their counts, the rarest first, and the number of
// states that each run was the first to reach.
func (c *coverage) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, what := range slices.SortedFunc(maps.Keys(c.counts), func(x, y string) int {
		if d := c.counts[x] - c.counts[y]; d != 0 {
			return d
		}
		return strings.Compare(x, y)
	}) {
		fmt.Fprintf(&b, "%8d  %s\n", c.counts[what], what)
	}
	for _, run := range c.runs {
		if n := len(c.firstReached[run]); n > 0 {
			fmt.Fprintf(&b, "%s was the first to reach %d states\n", run, n)
		} else {
			fmt.Fprintf(&b, "%s reached no new state\n", run)
		}
	}
	return b.String()
}

// count counts a state of this world.
func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached[what]++
}

// tookSnapshot is the debug message of Raft when a follower has replaced its state by a snapshot of
// its leader.
const tookSnapshot = "Installed remote snapshot"

// countingHandler counts the lines of a node's log by their message.
type countingHandler struct {
	slog.Handler
	w *world
}

func (h countingHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelDebug }

func (h countingHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo && r.Message != tookSnapshot {
		return nil
	}
	h.w.count(r.Message)
	if h.Handler.Enabled(ctx, r.Level) {
		return h.Handler.Handle(ctx, r)
	}
	return nil
}

func (h countingHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return countingHandler{h.Handler.WithAttrs(a), h.w}
}

func (h countingHandler) WithGroup(name string) slog.Handler {
	return countingHandler{h.Handler.WithGroup(name), h.w}
}
