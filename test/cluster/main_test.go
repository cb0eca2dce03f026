// Package cluster tests clusters: elections, failovers, partitions, changes of membership.
package cluster

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
