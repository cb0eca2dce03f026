// Package operator tests the work of operators: cluster commands, runbooks, certificates, the
// command verify.
package operator

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
