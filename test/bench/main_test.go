// Package bench measures nodes and clusters without faults.
package bench

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
