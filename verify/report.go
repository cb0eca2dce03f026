package verify

import (
	"cmp"
	"regexp"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/verify/history"
)

// Report is the verdict about a run, with statistics.
type Report struct {
	// OK is set if every promise was kept and could be judged.
	OK bool `json:"ok"`
	// Undecided is the reason why a promise could not be judged; empty if all were.
	Undecided string          `json:"open,omitempty"`
	Run       RunInfo         `json:"run"`
	Promises  []PromiseResult `json:"promises"`
	Findings  []Finding       `json:"findings,omitempty"`
	Counts    Counts          `json:"counts"`
	// Writes is the availability of requests for builds, with retries. Reads is the availability of
	// reads from one node, without retries.
	Writes  Availability `json:"writes"`
	Reads   Availability `json:"reads"`
	Windows []Window     `json:"windows"`
	// Errors are the errors of calls, the most frequent first.
	Errors  []ErrorCount `json:"errors,omitempty"`
	Faults  []Fault      `json:"faults,omitempty"`
	Seconds []Second     `json:"-"`
}

// PromiseResult is one promise with the number of its violations.
type PromiseResult struct {
	Promise Promise `json:"promise"`
	Broken  int     `json:"broken"`
}

// ErrorCount is the number of calls of one kind that failed with the same error.
type ErrorCount struct {
	Kind  history.Kind `json:"kind"`
	Error string       `json:"error"`
	Count int          `json:"count"`
}

// Counts are the amounts of evidence.
type Counts struct {
	Calls        int                   `json:"calls"`
	Acknowledged int                   `json:"acknowledged"`
	Attached     int                   `json:"attached"`
	Ends         map[history.Phase]int `json:"ends"`
	// FurtherAttempts is the number of attempts after the first attempt of a build.
	FurtherAttempts int   `json:"furtherAttempts"`
	LogReads        int   `json:"logReads"`
	LogBytes        int64 `json:"logBytes"`
	BrokenReads     int   `json:"brokenReads"`
	Images          int   `json:"images"`
}

// Availability is the availability of the cluster as clients experienced it.
type Availability struct {
	Calls  int `json:"calls"`
	Failed int `json:"failed"`
	// ErrorSeconds is the number of seconds in which a call failed or took longer than a second.
	ErrorSeconds int `json:"errorSeconds"`
	// LongestOutage is the longest time without a success while calls were in progress.
	LongestOutage time.Duration `json:"longestOutage"`
}

// Window is the latency of requests for builds in a part of the run.
type Window struct {
	Name   string        `json:"name"`
	Calls  int           `json:"calls"`
	Failed int           `json:"failed"`
	P50    time.Duration `json:"p50"`
	P99    time.Duration `json:"p99"`
	Max    time.Duration `json:"max"`
}

// Second is one second of the timeline.
type Second struct {
	Acked, Failed, Reads, ReadsFailed, Ended int
	Slowest                                  time.Duration
}

// NewReport judges evidence and computes the statistics.
func NewReport(e *Evidence) *Report {
	r := &Report{Run: e.Run, Faults: e.Faults}
	var err error
	r.Findings, err = Judge(e)
	if err != nil {
		r.Undecided = err.Error()
	}
	broken := map[Promise]int{}
	for _, f := range r.Findings {
		broken[f.Promise]++
	}
	for _, p := range promises() {
		r.Promises = append(r.Promises, PromiseResult{p, broken[p]})
	}
	r.OK = len(r.Findings) == 0 && r.Undecided == ""
	r.count(e)
	r.Writes = availability(e.Calls, history.Create)
	r.Reads = availability(e.Calls, history.Read)
	r.windows(e)
	r.Errors = countErrors(e.Calls)
	r.seconds(e)
	return r
}

// count fills in the counts.
func (r *Report) count(e *Evidence) {
	c := &r.Counts
	c.Calls, c.Ends, c.Images = len(e.Calls), map[history.Phase]int{}, len(e.Images)
	for _, x := range e.Calls {
		if x.Op.Kind == history.Create && x.Status == history.OK {
			c.Acknowledged++
			if x.Out.Attached {
				c.Attached++
			}
		}
	}
	seen := map[string]bool{}
	for _, b := range e.Ends {
		if seen[b.Build] {
			continue
		}
		seen[b.Build] = true
		c.Ends[b.Phase]++
		c.FurtherAttempts += max(0, len(b.Attempts)-1)
	}
	for _, l := range e.Logs {
		c.LogReads++
		c.LogBytes += l.Length
		if l.Error != "" {
			c.BrokenReads++
		}
	}
}

// variableParts matches the parts of an error that differ between calls: ids, addresses, numbers.
var variableParts = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|\d+(\.\d+)*(:\d+)?`)

// countErrors groups the errors of calls by kind and text, without the variable parts.
func countErrors(calls history.History) (out []ErrorCount) {
	at := map[ErrorCount]int{}
	for _, c := range calls {
		if c.Error == "" || c.Status == history.OK {
			continue
		}
		at[ErrorCount{Kind: c.Op.Kind, Error: variableParts.ReplaceAllString(c.Error, "#")}]++
	}
	for k, n := range at {
		k.Count = n
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b ErrorCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Error, b.Error))
	})
	return out
}

// availability computes the availability of the calls of one kind.
func availability(calls history.History, kind history.Kind) (a Availability) {
	type span struct{ from, to time.Time }
	var good, all []span
	bad := map[int64]bool{}
	for _, c := range calls {
		if c.Op.Kind != kind || c.EndedAt.IsZero() {
			continue
		}
		a.Calls++
		all = append(all, span{c.StartedAt, c.EndedAt})
		failed := c.Status != history.OK
		if failed {
			a.Failed++
		} else {
			good = append(good, span{c.StartedAt, c.EndedAt})
		}
		if failed || c.EndedAt.Sub(c.StartedAt) > time.Second {
			for t := c.StartedAt.Unix(); t <= c.EndedAt.Unix(); t++ {
				bad[t] = true
			}
		}
	}
	a.ErrorSeconds = len(bad)
	if len(good) == 0 {
		return a
	}
	slices.SortFunc(good, func(x, y span) int { return x.to.Compare(y.to) })
	slices.SortFunc(all, func(x, y span) int { return x.from.Compare(y.from) })
	// The outage before a success began with the first call after the previous success.
	for i, next := 1, 0; i < len(good); i++ {
		for next < len(all) && !all[next].from.After(good[i-1].to) {
			next++
		}
		if next < len(all) && all[next].from.Before(good[i].to) {
			a.LongestOutage = max(a.LongestOutage, good[i].to.Sub(all[next].from))
		}
	}
	return a
}

// afterFault is the time after the end of a fault during which calls do not count as calls without
// faults.
const afterFault = 10 * time.Second

// windows computes the latencies in total, without faults, and during each fault.
func (r *Report) windows(e *Evidence) {
	var names []string
	by := map[string]*sample{}
	add := func(name string, c history.Record) {
		s := by[name]
		if s == nil {
			s = &sample{}
			by[name] = s
			names = append(names, name)
		}
		if c.Status != history.OK {
			s.failed++
		}
		s.latencies = append(s.latencies, c.EndedAt.Sub(c.StartedAt))
	}
	for _, c := range e.Calls {
		if c.Op.Kind != history.Create || c.EndedAt.IsZero() {
			continue
		}
		add("all", c)
		during, before := faultsAt(e.Faults, c)
		switch {
		case len(during) == 0 && len(before) == 0:
			add("without faults", c)
		case len(during) == 0:
			add("within 10 s after a fault", c)
		}
		for _, name := range during {
			add("during "+name, c)
		}
	}
	for _, n := range names {
		r.Windows = append(r.Windows, by[n].window(n))
	}
}

// faultsAt returns the names of the faults during a call, and of those that ended shortly before
// it.
func faultsAt(faults []Fault, c history.Record) (during, before []string) {
	for _, f := range faults {
		end := f.Ended
		if end.IsZero() {
			end = c.EndedAt
		}
		switch {
		case c.EndedAt.Before(f.Began) || c.StartedAt.After(end.Add(afterFault)):
		case c.StartedAt.After(end):
			before = append(before, f.Name)
		case !slices.Contains(during, f.Name):
			during = append(during, f.Name)
		}
	}
	return during, before
}

// sample collects the calls of one window.
type sample struct {
	latencies []time.Duration
	failed    int
}

// window computes the percentiles of the sample, which must not be empty.
func (s *sample) window(name string) Window {
	n := len(s.latencies)
	slices.Sort(s.latencies)
	at := func(q float64) time.Duration { return s.latencies[min(n-1, int(q*float64(n)))] }
	return Window{Name: name, Calls: n, Failed: s.failed, P50: at(0.5), P99: at(0.99), Max: s.latencies[n-1]}
}

// seconds fills in the timeline. It stays empty if the run lasted longer than a week.
func (r *Report) seconds(e *Evidence) {
	n := int(e.Run.Ended.Sub(e.Run.Began)/time.Second) + 1
	if n <= 0 || n > 7*24*3600 {
		return
	}
	r.Seconds = make([]Second, n)
	at := func(t time.Time) *Second {
		return &r.Seconds[min(max(int(t.Sub(e.Run.Began)/time.Second), 0), n-1)]
	}
	for _, c := range e.Calls {
		if c.EndedAt.IsZero() {
			continue
		}
		s := at(c.EndedAt)
		switch {
		case c.Op.Kind == history.Create && c.Status == history.OK:
			s.Acked++
			s.Slowest = max(s.Slowest, c.EndedAt.Sub(c.StartedAt))
		case c.Op.Kind == history.Create:
			s.Failed++
		case c.Op.Kind == history.Read && c.Status == history.OK:
			s.Reads++
		case c.Op.Kind == history.Read:
			s.ReadsFailed++
		}
	}
	for _, b := range e.Ends {
		at(b.Seen).Ended++
	}
}
