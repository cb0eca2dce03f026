// Package cli tests the command line, and runs the commands that the docs show.
package cli

import (
	"os"
	"testing"

	"github.com/image-builder-ha/image-builder/test/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveBinary()
	os.Exit(code)
}
