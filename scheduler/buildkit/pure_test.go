package buildkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds/logs"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_Choose_SameKeyMeetsTheSameDaemonUntilItIsBusier(t *testing.T) {
	idle := []candidate{{0, "unix:///a", 0, false}, {1, "unix:///b", 0, false}, {2, "unix:///c", 0, false}}
	seen := map[int]int{}
	for i := range 300 {
		key := fmt.Sprint("git https://example.com/", i)
		first := choose(idle, key, 1)
		seen[first]++
		if again := choose(idle, key, 1); again != first {
			t.Fatalf("%s: daemon %d, then %d", key, first, again)
		}
		busy := append([]candidate(nil), idle...)
		busy[first].load = 3
		if other := choose(busy, key, 1); other == first {
			t.Errorf("%s: daemon %d was chosen with 3 solves while others have none", key, first)
		}
		// If another candidate is removed, the choice stays the same.
		var fewer []candidate
		for _, c := range idle {
			if c.index == first || c.index == (first+1)%3 {
				fewer = append(fewer, c)
			}
		}
		if other := choose(fewer, key, 1); other != first {
			t.Errorf("%s: moved from daemon %d to %d because another one left", key, first, other)
		}
	}
	for i, n := range seen {
		if n < 60 {
			t.Errorf("daemon %d is first for %d of 300 keys", i, n)
		}
	}
	if got := choose([]candidate{{4, "unix:///a", 100, false}}, "k", 1); got != 4 {
		t.Errorf("the only daemon is %d, got %d", 4, got)
	}
}

func Test_Choose_PrefersAnotherDaemonThanTheOneThatFailed(t *testing.T) {
	idle := []candidate{{0, "unix:///a", 0, false}, {1, "unix:///b", 0, false}, {2, "unix:///c", 0, false}}
	for i := range 100 {
		key := fmt.Sprint("git https://example.com/", i)
		seen := map[int]bool{}
		for attempt := range uint32(3) {
			seen[choose(idle, key, attempt+1)] = true
		}
		if len(seen) != 3 {
			t.Errorf("%s: three attempts met %d daemons", key, len(seen))
		}
		if choose(idle, key, 4) != choose(idle, key, 1) {
			t.Errorf("%s: the fourth attempt of three daemons does not begin anew", key)
		}
		for attempt := range uint32(4) {
			avoided := slices.Clone(idle)
			first := choose(idle, key, attempt)
			avoided[first].avoid = true
			avoided[(first+1)%3].load = 7
			avoided[(first+2)%3].load = 7
			if got := choose(avoided, key, attempt); got == first {
				t.Errorf("%s: daemon %d failed just now, and is chosen before others", key, first)
			}
		}
		for j := range idle {
			avoided := slices.Clone(idle)
			for k := range avoided {
				avoided[k].avoid = true
			}
			if got, want := choose(avoided, key, uint32(j)), choose(idle, key, uint32(j)); got != want {
				t.Errorf("%s: all failed: got %d, want %d", key, got, want)
			}
		}
	}
}

func Test_LayoutOf(t *testing.T) {
	source := func(at, file, dir string, git bool) *imagebuilderv1.DockerfileSource {
		d := &imagebuilderv1.DockerfileSource{DockerfilePath: file, ContextPath: dir}
		if git {
			d.Context = &imagebuilderv1.DockerfileSource_Git{Git: &imagebuilderv1.GitContext{CheckoutLocation: at}}
		}
		return d
	}
	for _, test := range []struct {
		at, file, dir string
		git           bool
		want          layout
		err           string
	}{
		{want: layout{".", []string{"Dockerfile"}}},
		{git: true, want: layout{".", []string{"Dockerfile"}}},
		{git: true, at: ".", file: "Dockerfile", dir: ".", want: layout{".", []string{"Dockerfile"}}},
		{git: true, file: "a/b.Dockerfile", want: layout{"a", []string{"a/b.Dockerfile"}}},
		{file: "a/b.Dockerfile", want: layout{".", []string{"a/b.Dockerfile"}}},
		{dir: "a", want: layout{"a", []string{"a/Dockerfile", "Dockerfile"}}},
		{file: "./x//D", dir: "a/../b", want: layout{"b", []string{"x/D"}}},
		{git: true, at: "repo", file: "repo/D", dir: "repo", want: layout{".", []string{"D"}}},
		{git: true, at: "repo", file: "repo/x/D", dir: "repo/y", want: layout{"y", []string{"x/D"}}},
		{git: true, at: "repo", file: "x/D", dir: "y", want: layout{"y", []string{"x/D"}}},
		{file: "../D", err: "leaves"},
		{file: "a/../../D", err: "leaves"},
		{dir: "..", err: "leaves"},
		{dir: "/etc", err: "relative"},
		{file: "a\nb", err: "relative"},
		{git: true, at: "a", file: "a/../../b", err: "leaves"},
	} {
		got, err := layoutOf(source(test.at, test.file, test.dir, test.git))
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%+v: error %v", test, err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(layout{})); err != nil || diff != "" {
			t.Errorf("%+v: %v\n%s", test, err, diff)
		}
	}
}

func Test_ChooseFrontend(t *testing.T) {
	for _, test := range []struct {
		data, arg string
		allowed   []string
		builtin   bool
		refused   bool
	}{
		{data: "FROM a", builtin: true},
		{data: "# syntax=docker/dockerfile:1\nFROM a", builtin: true},
		{data: "# syntax = docker.io/docker/dockerfile:1.7-labs\n", builtin: true},
		{data: "# syntax=docker/dockerfile:1\n", allowed: []string{"docker/dockerfile"}},
		{data: "# syntax=docker/dockerfile:1\n", allowed: []string{"docker/dockerfile:2"}, builtin: true},
		{data: "// syntax=example.com/x\n", refused: true},
		{data: "#!/bin/x\n# syntax=example.com/x\n", refused: true},
		{data: `{"syntax":"example.com/x"}`, refused: true},
		{data: "# syntax=example.com/x:2\n", allowed: []string{"example.com/x:2"}},
		{data: "# syntax=example.com/x:3\n", allowed: []string{"example.com/x:2"}, refused: true},
		{data: "# syntax=UPPER\n", refused: true},
		{data: "FROM a", arg: "example.com/x", refused: true},
		{data: "# syntax=example.com/y\n", arg: "example.com/x --y", allowed: []string{"example.com/x"}},
	} {
		builtin, err := chooseFrontend([]byte(test.data), test.arg, test.allowed)
		if builtin != test.builtin || (err != nil) != test.refused {
			t.Errorf("%+v: %v, %v", test, builtin, err)
		}
	}
}

func Test_Lines_KeepEveryByteOfEveryStep(t *testing.T) {
	var b bytes.Buffer
	l := lines{w: &b}
	l.line(1, "[1/2] FROM a")
	l.output(2, 1234*time.Millisecond, []byte("one\ntw"))
	l.flush()
	l.output(2, 2*time.Second, []byte("o\nthree"))
	l.output(3, 20*time.Second, []byte("other\n"))
	l.output(2, 30*time.Second, []byte(" and more\n\n"))
	l.output(2, 300*time.Second, []byte("end"))
	l.line(2, "DONE")
	l.flush()
	want := `#1 [1/2] FROM a
#2 1.234 one
#2 1.234 two
#2 2.000 three
#3 20.00 other
#2 30.00  and more
#2 30.00 
#2 300.0 end
#2 DONE
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func Test_Lines_OthersWaitForTheEndOfALine(t *testing.T) {
	var b bytes.Buffer
	l := lines{w: &b}
	l.output(1, 0, []byte("a li"))
	l.busy = true
	l.line(2, "other")
	l.output(1, 0, []byte("ne\nnext "))
	l.busy = false
	l.line(2, "DONE")
	l.output(1, 0, []byte("li"))
	l.busy = true
	l.line(2, "again")
	l.busy = false
	l.line(1, "DONE")
	l.flush()
	want := "#1 0.000 a line\n#2 other\n#1 0.000 next \n#2 DONE\n#1 0.000 li\n#2 again\n#1 DONE\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func Test_Lines_NothingIsWrittenAfterAFailure(t *testing.T) {
	var reported []error
	l := lines{w: failing{}, failed: func(err error) { reported = append(reported, err) }}
	for range 3 {
		l.line(1, "x")
		l.flush()
	}
	if len(reported) != 1 {
		t.Errorf("the failure was reported %d times", len(reported))
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("fenced") }

func Test_Step_KeepsTheLastLines(t *testing.T) {
	s := &step{}
	for i := range 10_000 {
		s.keep(fmt.Appendf(nil, "line %d\r\n", i))
	}
	if cap(s.tail) > 4*tailBytes {
		t.Errorf("it holds %d bytes", cap(s.tail))
	}
	got := s.lines(plainText)
	if len(got) != tailLines || got[0] != "line 9990" || got[tailLines-1] != "line 9999" {
		t.Errorf("lines %q", got)
	}
	s.keep([]byte(strings.Repeat("ä", 1_000)))
	if last := s.lines(plainText); len(last[len(last)-1]) > maxText+3 {
		t.Errorf("a line of %d bytes", len(last[len(last)-1]))
	}
}

// Test_Failure_CutsNoSecret checks that a message is redacted before it is truncated: a cut secret
// would no longer match.
func Test_Failure_CutsNoSecret(t *testing.T) {
	token := strings.Repeat("0123456789abcdef", 20) // longer than a line of a message
	redact := logs.NewRedactor([][]byte{[]byte(token)}, nil).String
	const part = "0123456789abcdef"
	for what, output := range map[string]string{
		"in a line of its own":                      "before\n" + token + "\n",
		"behind more than is kept":                  strings.Repeat("x", 3*tailBytes) + token + "\nlast",
		"at the beginning of what is kept":          strings.Repeat("x", tailBytes) + token + strings.Repeat("y", 2*tailBytes-len(token)/2-5) + "\nlast",
		"in a line without an end, longer than all": strings.Repeat(token, 3*tailBytes/len(token)),
	} {
		for _, chunk := range []int{1 << 20, 1000, 7} {
			var s step
			for rest := []byte(output); len(rest) > 0; {
				n := min(chunk, len(rest))
				s.keep(rest[:n])
				rest = rest[n:]
			}
			if got := strings.Join(s.lines(redact), "\n"); strings.Contains(got, part) {
				t.Errorf("%s, in chunks of %d: %q", what, chunk, got)
			}
		}
	}
	f := &workload.Failure{Message: strings.Repeat("m", maxMessage-len(token)/2) + token}
	var got *workload.Failure
	if errors.As(bounded(f, redact), &got); strings.Contains(got.Message, part) || len(got.Message) > maxMessage+10 {
		t.Errorf("a message of %d bytes ends in %q", len(got.Message), got.Message[len(got.Message)-300:])
	}
}

func plainText(s string) string { return s }

func Test_Address_TLSIsRequiredBeyondLoopback(t *testing.T) {
	for _, test := range []struct {
		address Address
		err     string
	}{
		{Address{URL: "unix:///run/b.sock"}, ""},
		{Address{URL: "tcp://127.0.0.1:1234"}, ""},
		{Address{URL: "tcp://localhost:1234"}, ""},
		{Address{URL: "tcp://build.example.com:1234"}, "needs TLS"},
		{Address{URL: "tcp://build.example.com:1234", TLS: &TLS{}}, ""},
		{Address{URL: "http://127.0.0.1:1"}, "use unix"},
		{Address{URL: "docker-container://x"}, "use unix"},
		{Address{URL: "/run/b.sock"}, "use unix"},
	} {
		err := test.address.validate()
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v", test.address.URL, err)
		}
	}
}

// Test_GivenCredential_ErrorsShowNothing checks that errors contain neither the given credential
// nor the signature of a URL.
func Test_GivenCredential_ErrorsShowNothing(t *testing.T) {
	g := &givenCredential{host: "r.example.com", repository: "team/app", credential: func(context.Context, string, string) (string, string, error) {
		return "alice", "wonder-land", nil
	}}
	if _, _, err := g.lookUp(t.Context(), "r.example.com", nil, false); err != nil {
		t.Fatal(err)
	}
	err := g.safe(errors.New(`failed to solve: Get "https://store.example.com/a?X-Signature=abc&b=c": alice wonder-land is refused`))
	if want := `Get "https://store.example.com/a?...": alice *** is refused`; err.Error() != want {
		t.Errorf("got %s, want %s", err, want)
	}
}
