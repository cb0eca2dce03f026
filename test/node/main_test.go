// Package node tests a single node: builds by reference, secrets, starts and stops, kills and a full
// disk.
package node

import (
	"os"
	"testing"

	"github.com/image-builder-ha/image-builder/test/harness"
)

// cleanups run after all tests.
var cleanups []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range append(cleanups, harness.RemoveBinary) {
		f()
	}
	os.Exit(code)
}
