// Package dockerfile tests builds of Dockerfiles by a real BuildKit daemon.
package dockerfile

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
