//go:build faults

package builds_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

func Test_Mutants(t *testing.T) {
	testkit.Mutants(t, map[string]string{
		"copies-without-store-id": "Test_LogCopies_AWipedNodeHoldsNothing",
	})
}
