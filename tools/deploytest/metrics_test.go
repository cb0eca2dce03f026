package deploytest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// exists returns a function that reports whether a node or Prometheus exports a metric.
func exists(t *testing.T) func(metric string) bool {
	t.Helper()
	raw, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{"up": true}
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(string(raw), -1) {
		documented[m[1]] = true
	}
	return func(metric string) bool {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(metric, suffix); ok && documented[base] {
				return true
			}
		}
		return documented[metric] || exportedByRuntime[metric]
	}
}

// exportedByRuntime are metrics from the collectors of the Prometheus client. docs/metrics.md names
// their prefixes only.
var exportedByRuntime = map[string]bool{
	"go_goroutines": true, "process_cpu_seconds_total": true, "process_resident_memory_bytes": true,
	"process_open_fds": true, "process_max_fds": true, "process_start_time_seconds": true,
}

// metricsOf returns the names of the metrics in an expression.
func metricsOf(t *testing.T, expr string) (names []string) {
	t.Helper()
	expr = strings.NewReplacer("$__rate_interval", "5m").Replace(expr)
	tree, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v", expr, err)
		return nil
	}
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			for _, m := range v.LabelMatchers {
				if m.Name == labels.MetricName {
					names = append(names, m.Value)
				}
			}
		}
		return nil
	})
	return names
}

func Test_MetricsOfAlerts_Exist(t *testing.T) {
	known := exists(t)
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			for _, m := range metricsOf(t, r.Expr) {
				if !known(m) {
					t.Errorf("%s: no node exports %s", r.Alert, m)
				}
			}
		}
	}
}

func Test_MetricsOfDashboards_Exist(t *testing.T) {
	known := exists(t)
	files, _ := filepath.Glob(Root + "/dashboards/*.json")
	if len(files) < 4 {
		t.Fatalf("found dashboards %v, expected four", files)
	}
	uids := map[string]string{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			UID, Title string
			Panels     []struct {
				ID      int
				Title   string
				Targets []struct{ Expr string }
				GridPos struct{ X, Y, W, H int }
			}
		}
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if d.UID == "" || uids[d.UID] != "" {
			t.Errorf("%s: uid %q is empty or used by %q", f, d.UID, uids[d.UID])
		}
		uids[d.UID] = f
		for _, p := range d.Panels {
			if p.GridPos.X+p.GridPos.W > 24 || len(p.Targets) == 0 {
				t.Errorf("%s: panel %q has no place or no query", f, p.Title)
			}
			for _, target := range p.Targets {
				for _, m := range metricsOf(t, target.Expr) {
					if !known(m) {
						t.Errorf("%s: panel %q: no node exports %s", f, p.Title, m)
					}
				}
			}
		}
	}
}
