//go:build faults

package builds_test

import (
	"os"
	"os/exec"
	"testing"
)

// Test_Mutants switches on one defect after the other. The test that guards against the defect must
// fail with it and pass without it.
func Test_Mutants(t *testing.T) {
	if os.Getenv("IMAGE_BUILDER_MUTANT") != "" {
		t.Skip("runs for a mutant")
	}
	for mutant, by := range map[string]string{
		"copies-without-store-id": "Test_LogCopies_AWipedNodeHoldsNothing",
	} {
		for _, defect := range []string{"", mutant} {
			cmd := exec.Command(os.Args[0], "-test.run", "^"+by+"$")
			cmd.Env = append(os.Environ(), "IMAGE_BUILDER_MUTANT="+defect)
			out, err := cmd.CombinedOutput()
			if failed := err != nil; failed != (defect != "") {
				t.Errorf("%s with the defect %q: %v\n%s", by, defect, err, out)
			}
		}
		t.Logf("%s is caught by %s", mutant, by)
	}
}
