package test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/test/docs"
)

// typed runs the one command of a text that begins so, with what is here in place
// of the text's examples (old, new, ...), in a folder, and answers what it
// writes.
func typed(t *testing.T, dir, file, begins string, instead ...string) []byte {
	t.Helper()
	var found []docs.Command
	for _, c := range commands(t) {
		if c.File == file && strings.HasPrefix(c.String(), begins) {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d commands that begin with %q", file, len(found), begins)
	}
	words, here := []string{}, strings.NewReplacer(instead...)
	for _, w := range found[0].Words {
		words = append(words, here.Replace(w))
	}
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "no_proxy=*", "NO_PROXY=*")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v, run as %q\n%s", found[0].At(), err, words, said.String())
	}
	return out
}
