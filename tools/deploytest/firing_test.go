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

// world is a cluster of real nodes with a registry, and a Prometheus that scrapes the nodes.
type world struct {
	*harness.Cluster
	t     *testing.T
	prom  *watcher
	reg   *registrytest.Registry
	proxy *registrytest.Proxy // nodes reach the registry through it
	refs  []string            // images that no build has used yet
	made  int                 // number of images
	dir   string              // folder with the files that scripts of builds wait for
}

// newWorld starts nodes. over overrides their config. before, if not nil, is called before the
// nodes start.
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

// fault is a fault and the alerts that it fires.
type fault struct {
	// name describes the fault, in the words of docs/runbooks.md.
	name   string
	alerts []string
	inject func(w *world) damage
}

// damage is an active fault.
type damage struct {
	// nodes are the nodes that the alerts may name.
	nodes []*harness.Node
	// again, if not nil, is called repeatedly until all alerts fire.
	again func()
	// undo ends the fault.
	undo func()
}

// scene is a world and a sequence of faults.
type scene struct {
	name   string
	build  func(t *testing.T) *world
	faults []fault
}

// Timeouts on a busy machine. The slowest alert needs about a minute, for its `for` and its range.
const (
	quietLimit = 2 * time.Minute
	fireLimit  = 3 * time.Minute
)

// Test_Alerts_Fire injects faults into real nodes and fires each alert. An alert does not fire
// before the fault, fires during the fault for the affected node, and stops after the fault. The
// test uses the shipped rules with durations divided by 30.
func Test_Alerts_Fire(t *testing.T) {
	faults := map[string]string{} // by alert
	for _, s := range scenes {
		for _, f := range s.faults {
			for _, a := range f.alerts {
				if faults[a] != "" {
					faults[a] += "; "
				}
				faults[a] += f.name
			}
		}
	}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if faults[r.Alert] == "" {
				t.Errorf("no fault fires %s", r.Alert)
			}
		}
	}
	documented(t, faults)
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			w := s.build(t)
			for _, f := range s.faults {
				w.run(f)
			}
		})
	}
}

// run injects a fault, waits until its alerts fire, ends it, and waits until they stop.
func (w *world) run(f fault) {
	w.t.Helper()
	testkit.Eventually(w.t, quietLimit, "all nodes are scraped and no alert is pending: "+f.name, func() bool {
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
				w.t.Logf("%s fires %.1f s after %s", a, time.Since(began).Seconds(), f.name)
			}
			return len(all) > 0
		})
		if time.Since(began) > fireLimit {
			w.t.Fatalf("%s: after %s these alerts do not fire: %v; these do: %s", f.name, fireLimit, waiting, w.prom.allFiring())
		}
		if d.again != nil {
			d.again()
		}
		<-beat.C
	}
	d.undo()
	ended := time.Now()
	testkit.Eventually(w.t, quietLimit, "the alerts stop after the fault: "+f.name, func() bool {
		for _, a := range f.alerts {
			if len(w.prom.firing(a)) > 0 {
				return false
			}
		}
		return true
	})
	w.t.Logf("all alerts stopped %.1f s after the fault", time.Since(ended).Seconds())
}

// judge checks that an alert has a severity and names only affected nodes.
func (w *world) judge(alert string, l labels.Labels, d damage) {
	w.t.Helper()
	if l.Get("severity") == "" {
		w.t.Errorf("%s has no severity: %s", alert, l)
	}
	for _, name := range []string{"instance", "node"} {
		got := l.Get(name)
		if got != "" && !slices.ContainsFunc(d.nodes, func(n *harness.Node) bool { return got == n.Metrics || got == n.Name }) {
			w.t.Errorf("%s names %s, which has no fault", alert, got)
		}
	}
}

// documented compares the table of docs/runbooks.md with the faults.
func documented(t *testing.T, faults map[string]string) {
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
	same := len(rows) == len(faults)
	for a, text := range faults {
		same = same && rows[a] == text
		lines = append(lines, "| `"+a+"` | "+text+" |")
	}
	if !same {
		slices.Sort(lines)
		t.Errorf("the table of alerts and their faults in docs/runbooks.md must be\n%s", strings.Join(lines, "\n"))
	}
}
