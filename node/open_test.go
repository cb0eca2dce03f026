package node

import (
	"os"
	"strings"
	"testing"
)

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
