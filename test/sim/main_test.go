package sim

import (
	"os"
	"runtime/debug"
	"testing"
)

// TestMain collects garbage only near the memory limit: a simulation allocates much and keeps
// little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(512 << 20)
	os.Exit(m.Run())
}
