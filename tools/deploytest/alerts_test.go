package deploytest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"sigs.k8s.io/yaml"
)

const (
	rulesFile = Root + "/alerts/image-builder.rules.yaml"
	testsFile = Root + "/alerts/image-builder.tests.yaml"
)

// ruleTests is a subset of promtool's format for unit tests. `promtool test rules` reads the file
// too.
type ruleTests struct {
	RuleFiles          []string `json:"rule_files"`
	EvaluationInterval string   `json:"evaluation_interval"`
	Tests              []struct {
		Name        string `json:"name"`
		Interval    string `json:"interval"`
		InputSeries []struct {
			Series string `json:"series"`
			Values string `json:"values"`
		} `json:"input_series"`
		AlertRuleTest []struct {
			EvalTime  string `json:"eval_time"`
			Alertname string `json:"alertname"`
			ExpAlerts []struct {
				ExpLabels map[string]string `json:"exp_labels"`
			} `json:"exp_alerts"`
		} `json:"alert_rule_test"`
	} `json:"tests"`
}

func readRules(t *testing.T) *rulefmt.RuleGroups {
	t.Helper()
	groups, errs := rulefmt.ParseFile(rulesFile, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	return groups
}

func duration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := model.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(d)
}

// Test_Alerts evaluates the rules with the series of the tests file.
func Test_Alerts(t *testing.T) {
	raw, err := os.ReadFile(testsFile)
	if err != nil {
		t.Fatal(err)
	}
	var file ruleTests
	if err := yaml.UnmarshalStrict(raw, &file); err != nil {
		t.Fatal(err)
	}
	tested := map[string]bool{}
	for _, test := range file.Tests {
		t.Run(test.Name, func(t *testing.T) {
			every := duration(t, file.EvaluationInterval)
			load := fmt.Sprintf("load %s\n", test.Interval)
			for _, s := range test.InputSeries {
				load += fmt.Sprintf("  %s %s\n", s.Series, s.Values)
			}
			storage := promqltest.LoadedStorage(t, load)
			defer storage.Close()
			engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 50_000)
			manager := rules.NewManager(&rules.ManagerOptions{
				AppendableV2: storage, Queryable: storage, Context: t.Context(), Logger: slog.New(slog.DiscardHandler),
				QueryFunc:  rules.EngineQueryFunc(engine, storage),
				NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
				Parser:     parser.NewParser(parser.Options{}),
			})
			groups, errs := manager.LoadGroups(every, labels.EmptyLabels(), "", nil, false, rulesFile)
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			at := map[time.Duration]bool{}
			last := time.Duration(0)
			for _, a := range test.AlertRuleTest {
				at[duration(t, a.EvalTime)] = true
				last = max(last, duration(t, a.EvalTime))
			}
			for now := time.Duration(0); now <= last; now += every {
				for _, g := range groups {
					g.Eval(t.Context(), time.Unix(0, 0).Add(now).UTC())
				}
				if !at[now] {
					continue
				}
				for _, want := range test.AlertRuleTest {
					if duration(t, want.EvalTime) != now {
						continue
					}
					var exp, got []string
					for _, e := range want.ExpAlerts {
						tested[want.Alertname] = true
						exp = append(exp, labels.FromMap(e.ExpLabels).String())
					}
					found := false
					for _, g := range groups {
						for _, r := range g.Rules() {
							alerting, ok := r.(*rules.AlertingRule)
							if !ok || r.Name() != want.Alertname {
								continue
							}
							found = true
							if r.LastError() != nil {
								t.Errorf("%s: %v", r.Name(), r.LastError())
							}
							for _, a := range alerting.ActiveAlerts() {
								if a.State == rules.StateFiring {
									b := labels.NewBuilder(a.Labels)
									got = append(got, b.Del(labels.AlertName).Labels().String())
								}
							}
						}
					}
					slices.Sort(exp)
					slices.Sort(got)
					if !found || !slices.Equal(exp, got) {
						t.Errorf("%s after %s: fires for %v, expected %v", want.Alertname, now, got, exp)
					}
				}
			}
		})
	}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if !tested[r.Alert] {
				t.Errorf("%s fires in no test", r.Alert)
			}
		}
	}
}

// Test_AlertsOfChart: the chart has the rules of deploy/alerts.
func Test_AlertsOfChart(t *testing.T) {
	raw, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var shipped map[string]any
	if err := yaml.Unmarshal(raw, &shipped); err != nil {
		t.Fatal(err)
	}
	rendered, err := Render(Root+"/helm/image-builder", Release{Name: "image-builder", Namespace: "ns"}, nil, map[string]any{
		"monitoring": map[string]any{"prometheusRule": map[string]any{"enabled": true}},
		"config":     map[string]any{"orchestrator": map[string]any{"baseImageRepository": "r.example/a", "workspaceImageRepository": "r.example/b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Objects(Join(rendered))
	if err != nil {
		t.Fatal(err)
	}
	if rule := find(objects, "PrometheusRule", "image-builder"); rule == nil || !reflect.DeepEqual(rule["spec"], any(shipped)) {
		t.Errorf("the chart's rules are not those of deploy/alerts: %v", rule)
	}
}

// Test_RunbookLinks: the link of each alert names a heading of docs/runbooks.md.
func Test_RunbookLinks(t *testing.T) {
	raw, err := os.ReadFile("../../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(raw), -1) {
		a := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(h[1]), "")
		anchors[strings.ReplaceAll(a, " ", "-")] = true
	}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			page, anchor, _ := strings.Cut(r.Annotations["runbook_url"], "#")
			if !strings.HasSuffix(page, "/docs/runbooks.md") || !anchors[anchor] {
				t.Errorf("%s: there is no runbook %q", r.Alert, r.Annotations["runbook_url"])
			}
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: the severity, the summary or the description is empty", r.Alert)
			}
		}
	}
}
