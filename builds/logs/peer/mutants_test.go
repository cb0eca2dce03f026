//go:build faults

package peer

import (
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

func Test_Mutants(t *testing.T) {
	testkit.Mutants(t, map[string]string{"a-missing-log-is-away": "Test_OpenLog_MissingCopies"})
}
