package docs

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Run runs the only command of the text file that begins with begins, in the folder dir, and
// returns its standard output. The pairs in instead consist of an example in the text and its
// replacement.
func Run(t testing.TB, dir, file, begins string, instead ...string) []byte {
	t.Helper()
	all, err := Commands(testkit.Root())
	if err != nil {
		t.Fatal(err)
	}
	var found []Command
	for _, c := range all {
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
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v, run as %q\n%s", found[0].At(), err, words, stderr.String())
	}
	return out
}
