package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
)

// run executes a command line, and returns its exit status and the text on standard error.
func run(t *testing.T, args ...string) (status int, text string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	was := os.Stderr
	os.Stderr = w
	status = execute(t.Context(), args)
	os.Stderr = was
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return status, string(raw)
}

// Test_Usage_TellsWhatToDo checks that errors about wrong usage say what to do, and have the exit
// status of wrong usage.
func Test_Usage_TellsWhatToDo(t *testing.T) {
	for args, want := range map[string]string{
		"cancel":                  "usage: image-builder cancel ID",
		"list --nothing":          "usage: image-builder list",
		"nothing":                 "'image-builder --help'",
		"cluster statsu":          "'image-builder cluster --help'",
		"doctor ubuntu":           "'image-builder doctor --help'",
		"list --server a:1,":      "lacks an address",
		"verify":                  "--repository",
		"build git@host:a/b.git":  "https and http only",
		"build /nothing":          "is not a directory",
		"run --config /no/such":   "no such file",
		"dev --nodes 2":           "use 1, or 3 and more",
		"verify --profile mixed":  "--image",
		"cluster drain":           "usage: image-builder cluster drain NODE",
		"status a --server ,":     "lacks an address",
		"logs x -o xml":           "use table, json or yaml",
		"snapshot inspect /no/it": "no such file",
	} {
		t.Chdir(t.TempDir()) // dev creates its directory
		if status, text := run(t, strings.Fields(args)...); status != cli.ExitUsage || !strings.Contains(text, want) || !strings.HasPrefix(text, "image-builder: ") {
			t.Errorf("%s: status %d, %q; want %q", args, status, text, want)
		}
	}
}
