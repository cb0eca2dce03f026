package sim

import (
	"os"
	"runtime/debug"
	"testing"
)

// TestMain collects garbage seldom: the simulation makes much of it and keeps
// little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(1000)
	os.Exit(m.Run())
}
