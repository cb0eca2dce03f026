package knownfault

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// outcome runs the body of a fault that shows "wrong", and returns what the outer test reports.
func outcome(t *testing.T, limit time.Duration, body func(TB)) (messages []string, failed, skipped bool) {
	t.Helper()
	outer := &recorder{TB: t, ctx: t.Context(), cancel: func() {}}
	outer.protect(func() {
		run(outer, fault{name: "part 0: a fault", text: "something is wrong", shows: regexp.MustCompile("wrong|not ended|panic")}, limit, body)
	})
	return outer.messages, outer.failed, outer.skipped
}

func Test_Run(t *testing.T) {
	ended := make(chan struct{})
	for _, x := range []struct {
		name    string
		body    func(TB)
		limit   time.Duration
		failed  bool
		skipped bool
		message string
	}{
		{name: "error", body: func(t TB) { t.Error("it is wrong") }},
		{name: "fatal", body: func(t TB) { t.Helper(); t.Fatalf("it is %s", "wrong"); panic("not reached") }},
		{name: "error in a cleanup", body: func(t TB) { t.Cleanup(func() { t.Fatal("wrong") }) }},
		{name: "error in another goroutine", body: func(t TB) {
			done := make(chan struct{})
			go func() { defer close(done); t.Error("wrong") }()
			<-done
		}},
		{name: "panic", body: func(TB) { panic("oh") }},
		{name: "one of several messages", body: func(t TB) { t.Error("close"); t.Error("wrong") }},
		{name: "passes", body: func(TB) {}, failed: true, message: "this fault is gone: remove it from test/knownfault/list"},
		{name: "fails for another reason", body: func(t TB) { t.Fatal("no disk") }, failed: true, message: "another reason"},
		{name: "fails without a message", body: func(t TB) { t.FailNow() }, failed: true, message: "another reason"},
		{name: "skipped", body: func(t TB) { t.Skip("needs root") }, skipped: true, message: "needs root"},
		{name: "hangs until its context ends", limit: time.Millisecond, body: func(t TB) { <-t.Context().Done() }},
		{name: "the context ends before the cleanups", body: func(t TB) {
			t.Cleanup(func() { <-t.Context().Done(); close(ended) })
			t.Cleanup(func() {
				select {
				case <-ended:
					t.Error("the cleanups run in the wrong order")
				default:
				}
			})
			t.Error("wrong")
		}},
	} {
		if x.limit == 0 {
			x.limit = time.Minute
		}
		messages, failed, skipped := outcome(t, x.limit, x.body)
		if failed != x.failed || skipped != x.skipped || !strings.Contains(strings.Join(messages, "\n"), x.message) {
			t.Errorf("%s: the outer test failed: %v, skipped: %v, messages: %q", x.name, failed, skipped, messages)
		}
	}
	select {
	case <-ended:
	default:
		t.Error("no cleanup has run")
	}
}

func Test_Parse(t *testing.T) {
	for _, bad := range []string{"2 | a | b", "2 | a | b | (", "2 | a | b | c\n2 | a | d | e"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	got, err := parse("# a comment\n\n2 | a fault | it | is | wrong\n")
	if err != nil || len(got) != 1 || got[0].name != "part 2: a fault" || got[0].shows.String() != "is | wrong" {
		t.Errorf("%v, %v", got, err)
	}
}

// Test_List checks that each entry of the list has exactly one test, and each test an entry.
func Test_List(t *testing.T) {
	faults, err := parse(list)
	if err != nil {
		t.Fatal(err)
	}
	var listed, tested []string
	for _, f := range faults {
		listed = append(listed, f.name)
	}
	call := regexp.MustCompile(`knownfault\.Run(?:Simulated)?\(([^"\n]*)("([^"]*)")?`)
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") || filepath.Dir(path) == "../../test/knownfault" {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllStringSubmatch(string(source), -1) {
			if m[1] != "t, " || m[2] == "" {
				t.Errorf("%s: %s: the name of the fault must be a literal after t", path, m[0])
			}
			tested = append(tested, m[3])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range listed {
		if n := count(tested, name); n != 1 {
			t.Errorf("%q is in the list and has %d tests", name, n)
		}
	}
	for _, name := range tested {
		if !slices.Contains(listed, name) {
			t.Errorf("%q has a test and is not in the list", name)
		}
	}
}

func count(all []string, one string) (n int) {
	for _, x := range all {
		if x == one {
			n++
		}
	}
	return n
}
