package deploytest

import (
	"os"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func Test_ShortenExpr(t *testing.T) {
	for expr, want := range map[string]string{
		`up{job="a"} == 0`:                                `up{job="a"} == 0`,
		`rate(a_total[5m]) > 100`:                         `rate(a_total[10s]) > 100`,
		`a offset 1m > 1`:                                 `a offset 2s > 1`,
		`predict_linear(a[1h], 4 * 3600) < 0`:             `predict_linear(a[2m], (4 * 3600) / 30) < 0`,
		`sum by (job) (changes(a[15m])) > 8 and on (b) c`: `sum by (job) (changes(a[30s])) > 8 and on (b) c`,
	} {
		if got, err := ShortenExpr(expr, 30); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", expr, got, err, want)
		}
	}
	if _, err := ShortenExpr("max_over_time(a[5m:1m])", 30); err == nil {
		t.Error("a subquery is accepted")
	}
}

// Test_ShortenRules_OnlyTime: the shortened rules have the alerts, labels and annotations of the
// shipped rules.
func Test_ShortenRules_OnlyTime(t *testing.T) {
	raw, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	short, err := ShortenRules(raw, 30)
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(short, false, model.UTF8Validation, parser.NewParser(parser.Options{}), nil)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	shipped := readRules(t)
	if len(groups.Groups) != len(shipped.Groups) {
		t.Fatalf("%d groups, shipped are %d", len(groups.Groups), len(shipped.Groups))
	}
	for i, g := range shipped.Groups {
		for j, r := range g.Rules {
			s := groups.Groups[i].Rules[j]
			if s.Alert != r.Alert || s.Annotations["summary"] != r.Annotations["summary"] || s.Labels["severity"] != r.Labels["severity"] {
				t.Errorf("%s became %s", r.Alert, s.Alert)
			}
			if time.Duration(s.For)*30 != time.Duration(r.For) {
				t.Errorf("%s: for %s became %s", r.Alert, r.For, s.For)
			}
		}
	}
}
