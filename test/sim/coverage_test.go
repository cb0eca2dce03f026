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

// coverage counts the states that simulations have reached: what nodes say in
// their logs, which they do at each turn that is out of the ordinary, and what
// clients met. A schedule that reaches nothing new tells nothing new.
type coverage struct {
	mu    sync.Mutex
	times map[string]int
	order []string // of the runs
	fresh map[string][]string
}

// add takes what a run has reached.
func (c *coverage) add(run string, reached map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times == nil {
		c.times, c.fresh = map[string]int{}, map[string][]string{}
	}
	c.order = append(c.order, run)
	for _, what := range slices.Sorted(maps.Keys(reached)) {
		if c.times[what] == 0 {
			c.fresh[run] = append(c.fresh[run], what)
		}
		c.times[what] += reached[what]
	}
}

// missing are those of the states that no run has reached.
func (c *coverage) missing(states []string) (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, what := range states {
		if c.times[what] == 0 {
			out = append(out, what)
		}
	}
	return out
}

// String is a table: each state with how often it was reached, the rarest
// first, then what each run was the first to reach.
func (c *coverage) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, what := range slices.SortedFunc(maps.Keys(c.times), func(x, y string) int {
		if d := c.times[x] - c.times[y]; d != 0 {
			return d
		}
		return strings.Compare(x, y)
	}) {
		fmt.Fprintf(&b, "%8d  %s\n", c.times[what], what)
	}
	for _, run := range c.order {
		if n := len(c.fresh[run]); n > 0 {
			fmt.Fprintf(&b, "%s was the first to reach %d\n", run, n)
		} else {
			fmt.Fprintf(&b, "%s reached nothing that no run before it had\n", run)
		}
	}
	return b.String()
}

// seen counts a state of this world.
func (w *world) seen(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached[what]++
}

// tookSnapshot is what Raft logs, for debugging, when a follower has replaced its state by the
// snapshot of its leader.
const tookSnapshot = "Installed remote snapshot"

// heard counts the lines of a node's log.
type heard struct {
	slog.Handler
	w *world
}

func (h heard) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelDebug }

func (h heard) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo && r.Message != tookSnapshot {
		return nil
	}
	h.w.seen(r.Message)
	if h.Handler.Enabled(ctx, r.Level) {
		return h.Handler.Handle(ctx, r)
	}
	return nil
}

func (h heard) WithAttrs(a []slog.Attr) slog.Handler { return heard{h.Handler.WithAttrs(a), h.w} }
func (h heard) WithGroup(name string) slog.Handler   { return heard{h.Handler.WithGroup(name), h.w} }
