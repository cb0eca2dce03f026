package sim

import (
	"os"
	"runtime/debug"
	"testing"
)

// TestMain collects garbage seldom: the simulation makes much of it and keeps
// little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(2 << 30)
	os.Exit(m.Run())
}
