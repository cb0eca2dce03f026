//go:build faults

package deploytest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
)

// faster is the factor by which the durations of the shipped rules are divided. The longest range
// becomes two minutes.
const faster = 30

// step is the interval of scrapes and evaluations: 15 seconds in the chart.
const step = 15 * time.Second / faster

// watcher runs the scraper, the database and the rule manager of Prometheus in this process, with
// the shipped rules, shortened.
type watcher struct {
	t       testing.TB
	rules   *rules.Manager
	targets chan map[string][]*targetgroup.Group
	query   rules.QueryFunc
}

// watch starts a watcher without targets.
func watch(t *testing.T) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	quiet := slog.New(slog.DiscardHandler)
	db, err := tsdb.Open(t.TempDir(), quiet, prometheus.NewRegistry(), tsdb.DefaultOptions(), nil)
	if err != nil {
		t.Fatal(err)
	}
	scraper, err := scrape.NewManager(&scrape.Options{DiscoveryReloadInterval: model.Duration(step), DiscoveryReloadOnStartup: true}, quiet, nil, nil, db, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Load("scrape_configs:\n- job_name: image-builder\n  scrape_interval: "+model.Duration(step).String()+
		"\n  scrape_timeout: "+model.Duration(step).String()+"\n", quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := scraper.ApplyConfig(c); err != nil {
		t.Fatal(err)
	}
	engine := promql.NewEngine(promql.EngineOpts{
		Logger: quiet, Reg: prometheus.NewRegistry(), MaxSamples: 1_000_000, Timeout: 10 * time.Second,
		// By default, Prometheus drops a series five minutes after its last sample.
		LookbackDelta: 5 * time.Minute / faster, Parser: parser.NewParser(parser.Options{}),
	})
	shipped, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	short, err := ShortenRules(shipped, faster)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, short, 0o600); err != nil {
		t.Fatal(err)
	}
	w := &watcher{t: t, targets: make(chan map[string][]*targetgroup.Group), query: rules.EngineQueryFunc(engine, db)}
	w.rules = rules.NewManager(&rules.ManagerOptions{
		AppendableV2: db, Queryable: db, Context: ctx, Logger: quiet, Registerer: prometheus.NewRegistry(),
		QueryFunc: w.query, NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
		Parser: parser.NewParser(parser.Options{}),
	})
	if err := w.rules.Update(step, []string{file}, labels.EmptyLabels(), "", nil); err != nil {
		t.Fatal(err)
	}
	wg.Go(w.rules.Run)
	wg.Go(func() { _ = scraper.Run(w.targets) })
	t.Cleanup(func() {
		w.rules.Stop()
		scraper.Stop()
		cancel()
		wg.Wait()
		_ = engine.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// scrape replaces the targets. They have the labels that the Prometheus operator sets for the
// ServiceMonitor of the chart.
func (w *watcher) scrape(addrs ...string) {
	g := &targetgroup.Group{Source: "test", Labels: model.LabelSet{"namespace": "ns"}}
	for _, a := range addrs {
		g.Targets = append(g.Targets, model.LabelSet{model.AddressLabel: model.LabelValue(a)})
	}
	w.targets <- map[string][]*targetgroup.Group{"image-builder": {g}}
}

func (w *watcher) rule(alert string) *rules.AlertingRule {
	w.t.Helper()
	for _, r := range w.rules.AlertingRules() {
		if r.Name() == alert {
			if err := r.LastError(); err != nil {
				w.t.Errorf("%s: %v", alert, err)
			}
			return r
		}
	}
	w.t.Fatalf("there is no alert %s", alert)
	return nil
}

// firing returns the labels of each firing instance of an alert.
func (w *watcher) firing(alert string) (out []labels.Labels) {
	w.t.Helper()
	for _, a := range w.rule(alert).ActiveAlerts() {
		if a.State == rules.StateFiring {
			out = append(out, a.Labels)
		}
	}
	return out
}

// allFiring returns the names of all firing alerts.
func (w *watcher) allFiring() string {
	var out []string
	for _, r := range w.rules.AlertingRules() {
		if r.State() == rules.StateFiring {
			out = append(out, strings.TrimPrefix(r.Name(), "ImageBuilder"))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// value returns the first sample of the result of an expression, or 0 if there is none.
func (w *watcher) value(expr string) float64 {
	w.t.Helper()
	v, err := w.query(w.t.Context(), expr, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	if len(v) == 0 {
		return 0
	}
	return v[0].F
}
