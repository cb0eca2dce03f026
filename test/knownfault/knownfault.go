// Package knownfault runs tests that show known faults of the project. The body of such a test
// asserts the right behavior, and so it fails while the fault is there. The test passes as long as
// the body fails with the message that the file list expects, and fails once the body passes: then
// the fault is gone, its line leaves the list, and its test becomes an ordinary one.
//
// The package is for tests only.
package knownfault

import (
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Limits of one body. A body that takes longer has failed, and its context ends; it then has grace
// to return. simulatedLimit is simulated time.
const (
	limit          = 2 * time.Minute
	simulatedLimit = 3 * time.Hour
	grace          = 20 * time.Second
)

// TB is the type of the test that a body receives.
type TB = testing.TB

//go:embed list
var list string

// fault is one line of the list.
type fault struct {
	name  string // "part N: " and the fault, as Run receives it
	text  string
	shows *regexp.Regexp // matches a message of the failing body
}

// parse reads the list. Each line has the form
//
//	part | fault | description | regular expression
func parse(list string) (faults []fault, err error) {
	seen := map[string]bool{}
	for i, line := range strings.Split(list, "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.SplitN(line, " | ", 4)
		if len(fields) != 4 {
			return nil, fmt.Errorf("line %d of the list has %d fields instead of 4", i+1, len(fields))
		}
		f := fault{name: "part " + fields[0] + ": " + fields[1], text: fields[2]}
		if f.shows, err = regexp.Compile(fields[3]); err != nil {
			return nil, fmt.Errorf("line %d of the list: %w", i+1, err)
		}
		if seen[f.name] {
			return nil, fmt.Errorf("line %d of the list: %q is there twice", i+1, f.name)
		}
		seen[f.name] = true
		faults = append(faults, f)
	}
	return faults, nil
}

// Run runs the body of the test of a fault. The name is "part N: " and the fault, as in the list.
// t passes if the body fails with the expected message, and fails if the body passes or fails with
// other messages only. A panic of the body and a body that does not end count as failures of the
// body. A panic in another goroutine ends the process, so a test that may cause one runs it in a
// process of its own.
func Run(t testing.TB, name string, body func(t TB)) {
	t.Helper()
	run(t, find(t, name), limit, body)
}

// RunSimulated is Run under testing/synctest: the body runs in a bubble.
func RunSimulated(t *testing.T, name string, body func(t TB)) {
	t.Helper()
	f := find(t, name)
	synctest.Test(t, func(t *testing.T) {
		t.Helper()
		run(t, f, simulatedLimit, body)
	})
}

// find returns the fault with that name.
func find(t testing.TB, name string) fault {
	t.Helper()
	faults, err := parse(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		if f.name == name {
			return f
		}
	}
	t.Fatalf("test/knownfault/list has no fault %q", name)
	return fault{}
}

func run(t testing.TB, f fault, limit time.Duration, body func(TB)) {
	t.Helper()
	r := &recorder{TB: t}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.protect(func() { body(r) })
		r.cleanup()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		r.Errorf("the test has not ended after %s", limit)
		r.cancel()
		timer.Reset(grace)
		select {
		case <-done:
		case <-timer.C:
			t.Errorf("the test of the known fault %q does not end although its context has ended", f.name)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	switch {
	case slices.ContainsFunc(r.messages, f.shows.MatchString):
		t.Logf("known fault: %s: %s\n%s", f.name, f.text, strings.Join(r.messages, "\n"))
	case r.failed:
		t.Errorf("the test of the known fault %q fails for another reason; expected is %q:\n%s", f.name, f.shows, strings.Join(r.messages, "\n"))
	case r.skipped:
		t.Skip(r.messages)
	default:
		t.Errorf("%s: this fault is gone: remove it from test/knownfault/list", f.name)
	}
}

// recorder is the test that a body receives. It records failures instead of passing them on.
type recorder struct {
	testing.TB
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	messages []string // of failures, or of a skip
	failed   bool
	skipped  bool
	ended    bool // the outer test may have ended: pass nothing on
	cleanups []func()
}

// protect runs f in a goroutine of its own, which FailNow and SkipNow can end, and waits for it.
func (r *recorder) protect(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				r.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		f()
	}()
	<-done
}

// cleanup ends the context and runs the registered functions, the last one first.
func (r *recorder) cleanup() {
	r.cancel()
	for {
		r.mu.Lock()
		n := len(r.cleanups)
		if n == 0 {
			r.mu.Unlock()
			return
		}
		f := r.cleanups[n-1]
		r.cleanups = r.cleanups[:n-1]
		r.mu.Unlock()
		r.protect(f)
	}
}

func (r *recorder) record(failed, skipped bool, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed, r.skipped = r.failed || failed, r.skipped || skipped
	if message = strings.TrimSpace(message); message != "" && !r.ended {
		r.messages = append(r.messages, message)
	}
}

// log passes a message on to the outer test, unless that may have ended.
func (r *recorder) log(message string) {
	r.TB.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.TB.Log(strings.TrimSuffix(message, "\n"))
	}
}

// Cleanup registers a function that runs after the body.
func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// Context returns a context that ends before the cleanups run, and at the limit of the body.
func (r *recorder) Context() context.Context { return r.ctx }

// Error records a failure.
func (r *recorder) Error(args ...any) { r.record(true, false, fmt.Sprintln(args...)) }

// Errorf records a failure.
func (r *recorder) Errorf(format string, args ...any) {
	r.record(true, false, fmt.Sprintf(format, args...))
}

// Fail records a failure.
func (r *recorder) Fail() { r.record(true, false, "") }

// FailNow records a failure and ends the goroutine.
func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

// Failed reports whether the body has failed.
func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Fatal records a failure and ends the goroutine.
func (r *recorder) Fatal(args ...any) {
	r.Error(args...)
	runtime.Goexit()
}

// Fatalf records a failure and ends the goroutine.
func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// Log logs a message.
func (r *recorder) Log(args ...any) {
	r.TB.Helper()
	r.log(fmt.Sprintln(args...))
}

// Logf logs a message.
func (r *recorder) Logf(format string, args ...any) {
	r.TB.Helper()
	r.log(fmt.Sprintf(format, args...))
}

// Skip skips the test and ends the goroutine.
func (r *recorder) Skip(args ...any) {
	r.record(false, true, fmt.Sprintln(args...))
	runtime.Goexit()
}

// Skipf skips the test and ends the goroutine.
func (r *recorder) Skipf(format string, args ...any) {
	r.record(false, true, fmt.Sprintf(format, args...))
	runtime.Goexit()
}

// SkipNow skips the test and ends the goroutine.
func (r *recorder) SkipNow() { r.Skip() }

// Skipped reports whether the body was skipped.
func (r *recorder) Skipped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skipped
}
