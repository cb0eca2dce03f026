package verify

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"time"
)

//go:embed report.html
var reportHTML string

var page = template.Must(template.New("report").Funcs(template.FuncMap{"short": short}).Parse(reportHTML))

// chart is one timeline of the page, rendered as SVG.
type chart struct {
	Title  string
	Max    string
	Bars   []bar
	Faults []bar
	Ticks  []tick
}

type bar struct {
	X, Y, W, H float64
	Class, Tip string
}

type tick struct {
	X    float64
	Text string
}

const (
	chartWidth  = 1000.0
	chartHeight = 120.0
)

// HTML writes the report as one self-contained page.
func (r *Report) HTML(w io.Writer) error {
	return page.Execute(w, struct {
		*Report
		Verdict string
		Charts  []chart
	}{r, r.verdict(), []chart{
		r.chart("builds acknowledged per second", func(s Second) float64 { return float64(s.Acked) }, func(s Second) float64 { return float64(s.Failed) }),
		r.chart("slowest build request, ms", func(s Second) float64 { return float64(s.Slowest.Milliseconds()) }, nil),
		r.chart("builds ended per second", func(s Second) float64 { return float64(s.Ended) }, nil),
		r.chart("successful reads per second", func(s Second) float64 { return float64(s.Reads) }, func(s Second) float64 { return float64(s.ReadsFailed) }),
	}})
}

// chart returns the timeline of one figure. bad, if not nil, is stacked on good as failures.
func (r *Report) chart(title string, good, bad func(Second) float64) chart {
	c := chart{Title: title}
	top := 1.0
	for _, s := range r.Seconds {
		v := good(s)
		if bad != nil {
			v += bad(s)
		}
		top = math.Max(top, v)
	}
	c.Max = fmt.Sprintf("%g", top)
	n := float64(max(len(r.Seconds), 1))
	for i, s := range r.Seconds {
		x, w := float64(i)/n*chartWidth, chartWidth/n
		h := good(s) / top * chartHeight
		c.Bars = append(c.Bars, bar{x, chartHeight - h, w, h, "good", fmt.Sprintf("second %d: %g", i, good(s))})
		if bad != nil && bad(s) > 0 {
			b := bad(s) / top * chartHeight
			c.Bars = append(c.Bars, bar{x, chartHeight - h - b, w, b, "bad", fmt.Sprintf("second %d: %g failed", i, bad(s))})
		}
	}
	for _, f := range r.Faults {
		end := f.Ended
		if end.IsZero() {
			end = r.Run.Ended
		}
		from, to := f.Began.Sub(r.Run.Began).Seconds(), end.Sub(r.Run.Began).Seconds()
		c.Faults = append(c.Faults, bar{from / n * chartWidth, 0, math.Max((to-from)/n*chartWidth, 1), chartHeight, "fault", fmt.Sprintf("%s, %.1f s to %.1f s", f.Name, from, to)})
	}
	for i := range 11 {
		at := time.Duration(float64(i) / 10 * n * float64(time.Second)).Round(time.Second)
		c.Ticks = append(c.Ticks, tick{float64(i) / 10 * chartWidth, at.String()})
	}
	return c
}
