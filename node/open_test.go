package node

import (
	"os"
	"strings"
	"testing"
)

// Test_Writable checks that the check leaves no file, and that its error names the directory.
func Test_Writable(t *testing.T) {
	dir := t.TempDir()
	if err := writable(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("files left behind: %v, %v", left, err)
	}
	if err := writable("/proc/self"); err == nil || !strings.Contains(err.Error(), "cannot write to /proc/self") {
		t.Errorf("a directory that is not writable: %v", err)
	}
}
