package verify

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/image-builder-ha/image-builder/verify/history"
)

// Text writes the report as text for a terminal.
func (r *Report) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "PROMISE\tVERDICT")
	for _, p := range r.Promises {
		verdict := "kept"
		if p.Broken > 0 {
			verdict = fmt.Sprintf("BROKEN %d times", p.Broken)
		}
		fmt.Fprintf(t, "%s\t%s\n", p.Promise, verdict)
	}
	c := r.Counts
	fmt.Fprintf(t, "\nBUILDS\t%d acknowledged, %d of them attached; %d succeeded, %d failed, %d cancelled; %d further attempts\n",
		c.Acknowledged, c.Attached, c.Ends[history.Succeeded], c.Ends[history.Failed], c.Ends[history.Cancelled], c.FurtherAttempts)
	fmt.Fprintf(t, "LOGS\t%d reads of %d bytes, %d of them incomplete\n", c.LogReads, c.LogBytes, c.BrokenReads)
	fmt.Fprintf(t, "IMAGES\t%d looked up in the registry\n", c.Images)
	for _, a := range []struct {
		name string
		Availability
	}{{"WRITES", r.Writes}, {"READS", r.Reads}} {
		fmt.Fprintf(t, "%s\t%d calls, %d failed; %d seconds with errors or calls above 1 s; longest outage %s\n", a.name, a.Calls, a.Failed, a.ErrorSeconds, a.LongestOutage.Round(time.Millisecond))
	}
	if r.Run.Skipped > 0 {
		fmt.Fprintf(t, "SKIPPED\t%d builds were not requested: too many were in progress\n", r.Run.Skipped)
	}
	fmt.Fprintln(t, "\nBUILD REQUESTS\tCALLS\tFAILED\tMEDIAN\tP99\tMAX")
	for _, x := range r.Windows {
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%s\n", x.Name, x.Calls, x.Failed, short(x.P50), short(x.P99), short(x.Max))
	}
	for i, x := range r.Errors {
		if i == 0 {
			fmt.Fprintln(t, "\nERRORS\tCALLS\tMESSAGE")
		}
		if i == 12 {
			break
		}
		text := x.Error
		if len(text) > 140 {
			text = text[:140] + "…"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\n", x.Kind, x.Count, text)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i, f := range r.Findings {
		if i == 10 {
			fmt.Fprintf(w, "\n%d more findings are omitted.\n", len(r.Findings)-i)
			break
		}
		fmt.Fprintf(w, "\n%s: %s\n", f.Promise, f.Message)
	}
	_, err := fmt.Fprintf(w, "\n%s\n", r.verdict())
	return err
}

// verdict returns the verdict in one line.
func (r *Report) verdict() string {
	switch {
	case len(r.Findings) > 0:
		return "not ok: " + string(r.Findings[0].Promise)
	case r.Undecided != "":
		return "undecided: " + r.Undecided
	}
	return "ok"
}

// short renders a duration with two or three significant digits.
func short(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// JSON writes the report as one JSON object. Durations are in nanoseconds.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// JUnit writes the report as JUnit XML with one test case per promise.
func (r *Report) JUnit(w io.Writer) error {
	type failure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		Failure *failure `xml:"failure"`
		Error   *failure `xml:"error"`
	}
	type suite struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Time     float64    `xml:"time,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	s := suite{Name: "image-builder verify", Time: r.Run.Ended.Sub(r.Run.Began).Seconds()}
	for _, p := range r.Promises {
		c := testcase{Class: "promises", Name: string(p.Promise)}
		if p.Broken > 0 {
			s.Failures++
			for _, f := range r.Findings {
				if f.Promise == p.Promise {
					first, _, _ := strings.Cut(f.Message, "\n")
					c.Failure = &failure{first, f.Message}
					break
				}
			}
		} else if p.Promise == Promise(history.Linearizable) && r.Undecided != "" {
			s.Errors++
			c.Error = &failure{r.Undecided, r.Undecided}
		}
		s.Cases = append(s.Cases, c)
	}
	s.Tests = len(s.Cases)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	return enc.Encode(s)
}
