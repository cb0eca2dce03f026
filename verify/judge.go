package verify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/verify/history"
)

// Promise is a guarantee of the service's documentation that evidence can refute. Reports contain
// its text.
type Promise string

// The promises in addition to the invariants of package history, which are promises of their own.
const (
	AnyNode      Promise = "any node answers"
	AsExpected   Promise = "acknowledged builds end as expected"
	OnlyGrow     Promise = "phases and epochs only grow"
	OneVersion   Promise = "all nodes show a version of a build alike"
	OneSuccess   Promise = "at most one attempt of a build succeeds"
	LogsOnlyGrow Promise = "all readers get the same log"
	Published    Promise = "published images are in the registry"
	NoLeaks      Promise = "no secret is readable"
)

// promises returns all promises that Judge checks, in the order of reports.
func promises() []Promise {
	all := []Promise{AnyNode, AsExpected, OnlyGrow, OneVersion, OneSuccess, LogsOnlyGrow, Published, NoLeaks}
	for _, i := range []history.Invariant{
		history.OneActive, history.AttachActive, history.OncePerRequest, history.AskedFor, history.NeverLost, history.Ends, history.Final,
		history.OneDigest, history.CancelHolds, history.LastRequester, history.FreshReads, history.LinearizableReads, history.Linearizable,
	} {
		all = append(all, Promise(i))
	}
	return all
}

// Finding is one broken promise.
type Finding struct {
	Promise Promise `json:"promise"`
	// Message describes the violation, with the calls that show it.
	Message string `json:"message"`
	// At is the time at which the violation became visible; zero if it is not known.
	At time.Time `json:"at,omitzero"`
}

// historyTimeout bounds the search for a linearization of the calls.
const historyTimeout = 5 * time.Minute

// mayForget reports whether the cluster may have removed builds that ended during a run of the given
// duration. It keeps ended builds for 10 minutes, the default of history.minAge.
func mayForget(d time.Duration) bool { return d > 9*time.Minute }

// Judge returns the broken promises in the order of time. It returns an error that wraps
// history.ErrUndecided if a promise could not be judged in time.
func Judge(e *Evidence) ([]Finding, error) {
	var all []Finding
	for _, judge := range []func(*Evidence) []Finding{judgeNodes, judgeEnds, judgeObservations, judgeLogs, judgeImages, judgeLeaks} {
		all = append(all, judge(e)...)
	}
	v := history.Judge(e.Calls, history.Options{Timeout: historyTimeout, Retention: mayForget(e.Run.Ended.Sub(e.Run.Began))})
	for _, x := range v.Violations {
		f := Finding{Promise: Promise(x.Invariant), Message: x.Error()}
		for _, c := range x.Calls {
			if c.EndedAt.After(f.At) {
				f.At = c.EndedAt
			}
		}
		all = append(all, f)
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		switch {
		case a.At.IsZero() != b.At.IsZero():
			if a.At.IsZero() {
				return 1
			}
			return -1
		default:
			return a.At.Compare(b.At)
		}
	})
	if len(v.Undecided) > 0 {
		return all, fmt.Errorf("%w: %d refs are open, the first is %s", history.ErrUndecided, len(v.Undecided), v.Undecided[0])
	}
	return all, nil
}

// judgeNodes checks that every node responded to reads and that the cluster acknowledged builds.
func judgeNodes(e *Evidence) (out []Finding) {
	succeeded, reads := map[string]int{}, map[string]int{}
	builds := 0
	for _, c := range e.Calls {
		if c.Op.Kind == history.Create && c.Status == history.OK {
			builds++
		}
		_, server, ok := strings.Cut(c.Client, "@")
		if !ok {
			continue
		}
		reads[server]++
		if c.Status == history.OK {
			succeeded[server]++
		}
	}
	for _, s := range e.Run.Servers {
		if reads[s] > 0 && succeeded[s] == 0 {
			out = append(out, Finding{Promise: AnyNode, Message: fmt.Sprintf("node %s responded to none of %d reads", s, reads[s])})
		}
	}
	if builds == 0 {
		out = append(out, Finding{Promise: AnyNode, Message: "no build was acknowledged" + firstError(e)})
	}
	return out
}

// firstError returns the error of the first failed request for a build as a clause of a message, or
// "".
func firstError(e *Evidence) string {
	for _, c := range e.Calls {
		if c.Op.Kind == history.Create && c.Error != "" {
			return "; the first request failed: " + c.Error
		}
	}
	return ""
}

// judgeEnds checks that builds end in the expected phase, by the success of one attempt if they
// succeed.
func judgeEnds(e *Evidence) (out []Finding) {
	for _, b := range e.Ends {
		if b.Expect != "" && b.Phase != b.Expect {
			out = append(out, Finding{AsExpected, fmt.Sprintf("build %s of %s is %s, expected %s (%s): %s\n%s", b.Build, b.Source, b.Phase, b.Expect, b.Blame, b.Message, formatAttempts(b.Attempts)), b.Seen})
		}
		successes := 0
		for _, a := range b.Attempts {
			if a.Phase == history.Succeeded {
				successes++
			}
		}
		if successes > 1 || successes == 0 && b.Phase == history.Succeeded {
			out = append(out, Finding{OneSuccess, fmt.Sprintf("build %s is %s with %d attempts that succeeded\n%s", b.Build, b.Phase, successes, formatAttempts(b.Attempts)), b.Seen})
		}
	}
	return out
}

// formatAttempts renders one line per attempt, indented.
func formatAttempts(all []AttemptState) string {
	var b strings.Builder
	for _, a := range all {
		fmt.Fprintf(&b, "  attempt %d, epoch %d: %s, counted %v, log %s of %d bytes: %s\n", a.Number, a.Epoch, a.Phase, a.Counted, a.LogState, a.LogLength, a.Message)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// ranks orders the phases of an attempt: a phase never changes to one of a smaller rank.
var ranks = map[history.Phase]int{
	history.Queued: 1, history.Assigned: 2, history.Starting: 3, history.Running: 4, history.Pushing: 5,
	history.Succeeded: 6, history.Failed: 6, history.Cancelled: 6,
}

// judgeObservations checks that each version of a build has one content, and that attempts only
// move forward from version to version.
func judgeObservations(e *Evidence) (out []Finding) {
	byBuild := map[string][]Observation{}
	var ids []string
	for _, s := range e.Observations {
		if byBuild[s.Build] == nil {
			ids = append(ids, s.Build)
		}
		byBuild[s.Build] = append(byBuild[s.Build], s)
	}
	for _, id := range ids {
		all := byBuild[id]
		slices.SortStableFunc(all, func(a, b Observation) int { return cmp.Compare(a.Version, b.Version) })
		for i := 1; i < len(all); i++ {
			if f, bad := compareObservations(all[i-1], all[i]); bad {
				out = append(out, f)
				break
			}
		}
	}
	return out
}

// compareObservations compares two successive observations of a build. It reports whether b cannot
// follow a.
func compareObservations(a, b Observation) (Finding, bool) {
	both := fmt.Sprintf("\n  version %d by %s: %s\n%s\n  version %d by %s: %s\n%s", a.Version, a.Server, a.Phase, formatAttempts(a.Attempts), b.Version, b.Server, b.Phase, formatAttempts(b.Attempts))
	if a.Version == b.Version {
		return Finding{Promise: OneVersion, Message: fmt.Sprintf("version %d of build %s has two contents%s", a.Version, a.Build, both)}, true
	}
	if len(b.Attempts) < len(a.Attempts) {
		return Finding{Promise: OnlyGrow, Message: fmt.Sprintf("attempts of build %s disappeared%s", a.Build, both)}, true
	}
	for i, x := range a.Attempts {
		y := b.Attempts[i]
		switch {
		case y.Epoch < x.Epoch:
			return Finding{Promise: OnlyGrow, Message: fmt.Sprintf("the epoch of attempt %d of build %s went back%s", x.Number, a.Build, both)}, true
		case ranks[y.Phase] < ranks[x.Phase] && y.Epoch == x.Epoch,
			ranks[x.Phase] == 6 && y.Phase != x.Phase:
			return Finding{Promise: OnlyGrow, Message: fmt.Sprintf("attempt %d of build %s went back from %s to %s%s", x.Number, a.Build, x.Phase, y.Phase, both)}, true
		}
	}
	return Finding{}, false
}

// judgeLogs checks that all complete reads of an attempt's log are equal and match the status of
// the build, and that every incomplete read is a prefix of them.
func judgeLogs(e *Evidence) (out []Finding) {
	type key struct {
		build   string
		attempt uint32
	}
	reads := map[key][]LogRead{}
	for _, l := range e.Logs {
		k := key{l.Build, l.Attempt}
		reads[k] = append(reads[k], l)
	}
	for _, b := range e.Ends {
		for _, a := range b.Attempts {
			all := reads[key{b.Build, a.Number}]
			if f, bad := judgeLog(b, a, all); bad {
				out = append(out, f)
			}
		}
	}
	return out
}

// judgeLog checks the reads of one log. It reports whether they break a promise.
func judgeLog(b End, a AttemptState, all []LogRead) (Finding, bool) {
	name := fmt.Sprintf("attempt %d of build %s", a.Number, b.Build)
	if a.LogState == "lost" {
		return Finding{LogsOnlyGrow, "the log of " + name + " is lost: no copy is left\n" + formatAttempts(b.Attempts), b.Seen}, true
	}
	var full *LogRead
	prefixes := map[int64]string{}
	for i, l := range all {
		if l.Error == "" && full == nil {
			full = &all[i]
		}
		for n, sum := range l.Prefixes {
			prefixes[n] = sum
		}
	}
	for _, l := range all {
		switch {
		case l.Late && l.Error != "":
			return Finding{LogsOnlyGrow, fmt.Sprintf("reader %s could not read the log of %s after its end, after byte %d: %s", l.Reader, name, l.Length, l.Error), l.At}, true
		case l.Error == "" && (l.Length != full.Length || l.Checksum != full.Checksum):
			return Finding{LogsOnlyGrow, fmt.Sprintf("readers of the log of %s differ: %s got %d bytes (%s), %s got %d bytes (%s)", name, full.Reader, full.Length, full.Checksum, l.Reader, l.Length, l.Checksum), l.At}, true
		case l.Error == "" && a.LogState == "sealed" && (l.Length != a.LogLength || a.LogChecksum != "" && l.Checksum != a.LogChecksum):
			return Finding{LogsOnlyGrow, fmt.Sprintf("reader %s got %d bytes (%s) of the log of %s, which has %d (%s)", l.Reader, l.Length, l.Checksum, name, a.LogLength, a.LogChecksum), l.At}, true
		case l.Error != "" && l.Length > 0 && full != nil && l.Length > full.Length,
			l.Error != "" && prefixes[l.Length] != "" && prefixes[l.Length] != l.Checksum:
			whole := "no reader received all of it"
			if full != nil {
				whole = fmt.Sprintf("%d bytes", full.Length)
			}
			return Finding{LogsOnlyGrow, fmt.Sprintf("reader %s received %d bytes (%s) of the log of %s that other readers do not receive (%s, at this length %s)", l.Reader, l.Length, l.Checksum, name, whole, prefixes[l.Length]), l.At}, true
		}
	}
	return Finding{}, false
}

// judgeImages checks that published images are in the registry under the reported digest.
func judgeImages(e *Evidence) (out []Finding) {
	for _, l := range e.Images {
		switch {
		case l.Error != "":
			out = append(out, Finding{Promise: Published, Message: fmt.Sprintf("build %s published %s as %s: %s", l.Build, l.Ref, l.Want, l.Error)})
		case l.Got != l.Want:
			out = append(out, Finding{Promise: Published, Message: fmt.Sprintf("build %s published %s as %s, the registry has %s", l.Build, l.Ref, l.Want, l.Got)})
		}
	}
	return out
}

// judgeLeaks reports every place at which a secret was readable.
func judgeLeaks(e *Evidence) (out []Finding) {
	for _, l := range e.Leaks {
		out = append(out, Finding{NoLeaks, fmt.Sprintf("a secret of a request is readable in %s (build %s)", l.Where, l.Build), l.At})
	}
	return out
}
