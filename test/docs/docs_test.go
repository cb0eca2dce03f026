package docs_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/test/docs"
)

func Test_Split(t *testing.T) {
	for line, want := range map[string][][]string{
		"":                                    nil,
		"  # nothing":                         nil,
		"make run     # a comment":            {{"make", "run"}},
		"a https://b.c/d.git#main:sub":        {{"a", "https://b.c/d.git#main:sub"}},
		"git archive HEAD | a build - -f d/D": {{"git", "archive", "HEAD"}, {"a", "build", "-", "-f", "d/D"}},
		"curl 'h/x?name=a b' > heap":          {{"curl", "h/x?name=a b"}},
		"k --x $(for f in a/*; do echo --f=$f; done) y": {{"k", "--x", "$(for f in a/*; do echo --f=$f; done)", "y"}},
	} {
		if d := cmp.Diff(want, docs.Split(line)); d != "" {
			t.Errorf("%s:\n%s", line, d)
		}
	}
}

func Test_InText(t *testing.T) {
	got := docs.InText("a.md", "x\n```\none \\\n  two\n```\n```yaml\nno: 1\n```\n   ```sh\n   three | four # five\n   ```\n")
	want := []docs.Command{
		{File: "a.md", Line: 3, Words: []string{"one", "two"}},
		{File: "a.md", Line: 10, Words: []string{"three"}},
		{File: "a.md", Line: 10, Words: []string{"four"}, Piped: true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
