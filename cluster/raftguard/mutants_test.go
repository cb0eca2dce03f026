//go:build faults

package raftguard_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

func Test_Mutants(t *testing.T) {
	testkit.Mutants(t, map[string]string{"snapshot-is-no-entry": "Test_AfterSnapshot_Repeated"})
}
