package main

import (
	"io"
	"os"
	"strings"
	"testing"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// said runs a command line, and answers its status and what it told on stderr.
func said(t *testing.T, args ...string) (status int, text string) {
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

// Test_Usage_TellsWhatToDo: whoever writes a command wrongly is told how it is
// written, and a script learns it by the status.
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
		"build /nothing":          "is no directory",
		"run --config /no/such":   "no such file",
		"dev --nodes 2":           "use 1, or 3 and more",
		"verify --profile mixed":  "--image",
		"cluster drain":           "usage: image-builder cluster drain NODE",
		"status a --server ,":     "lacks an address",
		"logs x -o xml":           "use table, json or yaml",
		"snapshot inspect /no/it": "no such file",
	} {
		t.Chdir(t.TempDir()) // dev makes its directory
		if status, text := said(t, strings.Fields(args)...); status != exitUsage || !strings.Contains(text, want) || !strings.HasPrefix(text, "image-builder: ") {
			t.Errorf("%s: status %d, %q; want %q", args, status, text, want)
		}
	}
}

// Test_BuildFailed_SaysItOnce: messages of builds say themselves that they
// failed.
func Test_BuildFailed_SaysItOnce(t *testing.T) {
	for _, message := range []string{"build failed: no such stage", "no such stage"} {
		err := failed(&imagebuilderv1.Build{Phase: imagebuilderv1.Phase_PHASE_FAILED, Blame: imagebuilderv1.Blame_BLAME_USER, Message: message})
		if got := err.Error(); got != "build failed: no such stage (user)" {
			t.Errorf("%q is told as %q", message, got)
		}
	}
}

// Test_LockDev: a second dev is kept from the data of the first.
func Test_LockDev(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDev(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDev(dir); err == nil || !strings.Contains(err.Error(), dir+" is used by another") {
		t.Errorf("a second one: %v", err)
	}
	unlock()
	if unlock, err = lockDev(dir); err != nil {
		t.Fatalf("after the first one's end: %v", err)
	}
	unlock()
}

// Test_Writable: a data directory of somebody else is named as what it is.
func Test_Writable(t *testing.T) {
	dir := t.TempDir()
	if err := writable(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if err := writable("/proc/self"); err == nil || !strings.Contains(err.Error(), "cannot write to /proc/self") {
		t.Errorf("where nobody can write: %v", err)
	}
}
