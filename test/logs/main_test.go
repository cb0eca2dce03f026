// Package logs tests the logs of builds in a cluster: copies, failovers, damage, retention.
package logs

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
