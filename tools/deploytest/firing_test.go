//go:build faults

package deploytest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// world is a cluster of real nodes with its registry, and a Prometheus that
// scrapes them.
type world struct {
	*harness.Cluster
	t     *testing.T
	prom  *watcher
	reg   *registrytest.Registry
	proxy *registrytest.Proxy // what nodes know as the registry
	refs  []string            // images that no build has asked for yet
	made  int                 // how many images there are
	dir   string              // where scripts of builds find what they are to do
}

// newWorld starts nodes whose config is laid over; before is called with the
// world before they start.
func newWorld(t *testing.T, nodes int, over harness.Config, before func(*world)) *world {
	t.Helper()
	w := &world{t: t, prom: watch(t), reg: registrytest.Start(t, registrytest.Options{Quiet: true}), dir: t.TempDir()}
	w.proxy = registrytest.NewProxy(t, w.reg)
	all := harness.Config{"log": map[string]any{"level": "info"}}
	for k, v := range over {
		all[k] = v
	}
	w.Cluster = harness.NewCluster(t, nodes, w.proxy.Addr, all)
	if before != nil {
		before(w)
	}
	for _, n := range w.Nodes {
		n.Launch()
	}
	for _, n := range w.Nodes {
		n.AwaitReady()
	}
	w.scrape(w.Nodes...)
	return w
}

func (w *world) scrape(nodes ...*harness.Node) {
	w.t.Helper()
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.Metrics)
	}
	w.prom.scrape(addrs...)
}

// fault is something that goes wrong, and the alerts that tell of it.
type fault struct {
	// what it is, as docs/runbooks.md says it.
	what   string
	alerts []string
	inject func(w *world) damage
}

// damage is a fault in force.
type damage struct {
	// nodes that the alerts name, where they name any.
	nodes []*harness.Node
	// again, if not nil, is called again and again until all alerts fire.
	again func()
	// undo ends the fault.
	undo func()
}

// scene is a world in which faults happen one after the other.
type scene struct {
	name   string
	build  func(t *testing.T) *world
	faults []fault
}

// Limits of what has to come by itself, on a machine that does much else: the
// longest alert takes `for` and range of a minute.
const (
	quietLimit = 2 * time.Minute
	fireLimit  = 3 * time.Minute
)

// Test_Alerts_Fire lets each alert fire by a fault that happens to real nodes:
// it is silent before, fires while the fault lasts, for the node that is hurt,
// and is silent again when the fault is gone. The rules are those that are
// shipped, their durations divided by 30.
func Test_Alerts_Fire(t *testing.T) {
	told := map[string]string{}
	for _, s := range scenes {
		for _, f := range s.faults {
			for _, a := range f.alerts {
				if told[a] != "" {
					told[a] += "; "
				}
				told[a] += f.what
			}
		}
	}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if told[r.Alert] == "" {
				t.Errorf("no fault lets %s fire", r.Alert)
			}
		}
	}
	documented(t, told)
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			w := s.build(t)
			for _, f := range s.faults {
				w.suffer(f)
			}
		})
	}
}

func (w *world) suffer(f fault) {
	w.t.Helper()
	testkit.Eventually(w.t, quietLimit, "all nodes are scraped and no alert is about to fire: "+f.what, func() bool {
		for _, a := range f.alerts {
			if len(w.prom.rule(a).ActiveAlerts()) > 0 {
				return false
			}
		}
		return int(w.prom.value("count(up == 1)")) == len(w.Nodes)
	})
	began := time.Now()
	d := f.inject(w)
	waiting := slices.Clone(f.alerts)
	beat := time.NewTicker(step)
	defer beat.Stop()
	for len(waiting) > 0 {
		waiting = slices.DeleteFunc(waiting, func(a string) bool {
			all := w.prom.firing(a)
			for _, l := range all {
				w.judge(a, l, d)
			}
			if len(all) > 0 {
				w.t.Logf("%s fires %.1f s after %s", a, time.Since(began).Seconds(), f.what)
			}
			return len(all) > 0
		})
		if time.Since(began) > fireLimit {
			w.t.Fatalf("%s: after %s these do not fire: %v; these do: %s", f.what, fireLimit, waiting, w.prom.allFiring())
		}
		if d.again != nil {
			d.again()
		}
		<-beat.C
	}
	d.undo()
	ended := time.Now()
	testkit.Eventually(w.t, quietLimit, "the alerts are silent again once this is over: "+f.what, func() bool {
		for _, a := range f.alerts {
			if len(w.prom.firing(a)) > 0 {
				return false
			}
		}
		return true
	})
	w.t.Logf("all silent %.1f s after its end", time.Since(ended).Seconds())
}

// judge holds an alert's labels to the nodes that are hurt.
func (w *world) judge(alert string, l labels.Labels, d damage) {
	w.t.Helper()
	if l.Get("severity") == "" {
		w.t.Errorf("%s has no severity: %s", alert, l)
	}
	for _, name := range []string{"instance", "node"} {
		got := l.Get(name)
		if got != "" && !slices.ContainsFunc(d.nodes, func(n *harness.Node) bool { return got == n.Metrics || got == n.Name }) {
			w.t.Errorf("%s blames %s, which is not hurt", alert, got)
		}
	}
}

// documented holds the table of docs/runbooks.md to the faults.
func documented(t *testing.T, told map[string]string) {
	t.Helper()
	raw, err := os.ReadFile("../../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(ImageBuilder\\w+)` \\| (.*) \\|$").FindAllStringSubmatch(string(raw), -1) {
		rows[m[1]] = m[2]
	}
	var lines []string
	same := len(rows) == len(told)
	for a, what := range told {
		same = same && rows[a] == what
		lines = append(lines, "| `"+a+"` | "+what+" |")
	}
	if !same {
		slices.Sort(lines)
		t.Errorf("the table of docs/runbooks.md that says how each alert was fired has to be\n%s", strings.Join(lines, "\n"))
	}
}
