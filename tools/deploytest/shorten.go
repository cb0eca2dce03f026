package deploytest

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// ShortenRules returns a file of alert rules for tests in which time runs faster by the factor by.
// It divides all durations by this factor: each `for`, each range and offset of an expression, and
// the horizon of predict_linear. Thresholds, including rates per second, do not change.
func ShortenRules(file []byte, by int) ([]byte, error) {
	var rules struct {
		Groups []struct {
			Name  string           `json:"name"`
			Rules []map[string]any `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.UnmarshalStrict(file, &rules); err != nil {
		return nil, fmt.Errorf("read alert rules: %w", err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			expr, err := ShortenExpr(fmt.Sprint(r["expr"]), by)
			if err != nil {
				return nil, fmt.Errorf("shorten %v: %w", r["alert"], err)
			}
			wait, err := model.ParseDuration(fmt.Sprint(r["for"]))
			if err != nil {
				return nil, fmt.Errorf("shorten %v: %w", r["alert"], err)
			}
			r["expr"], r["for"] = expr, (wait / model.Duration(by)).String()
		}
	}
	return yaml.Marshal(rules)
}

// ShortenExpr is ShortenRules for one expression. It returns an error for a subquery, because no
// rule has one.
func ShortenExpr(expr string, by int) (string, error) {
	tree, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return "", err
	}
	var refused error
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.MatrixSelector:
			n.Range /= time.Duration(by)
		case *parser.VectorSelector:
			n.OriginalOffset /= time.Duration(by)
		case *parser.SubqueryExpr:
			refused = fmt.Errorf("%s: subqueries are not supported", n)
		case *parser.Call:
			if n.Func.Name == "predict_linear" {
				n.Args[1] = &parser.BinaryExpr{Op: parser.DIV, LHS: &parser.ParenExpr{Expr: n.Args[1]}, RHS: &parser.NumberLiteral{Val: float64(by)}}
			}
		}
		return nil
	})
	if refused != nil {
		return "", refused
	}
	text := tree.String()
	if _, err := parser.NewParser(parser.Options{}).ParseExpr(text); err != nil {
		return "", fmt.Errorf("parse the expression divided by %s: %w", strconv.Itoa(by), err)
	}
	return text, nil
}
