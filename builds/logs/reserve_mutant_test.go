//go:build faults

package logs_test

import (
	"os"
	"os/exec"
	"testing"
)

// Test_Mutants_Reserve lets logs take the reserve of the replicated log.
func Test_Mutants_Reserve(t *testing.T) {
	if os.Getenv("IMAGE_BUILDER_MUTANT") != "" {
		t.Skip("this process runs the test of a mutant")
	}
	for _, defect := range []string{"", "logs-take-the-reserve"} {
		cmd := exec.Command(os.Args[0], "-test.run", "^Test_Reserve$", "-test.timeout", "1m")
		cmd.Env = append(os.Environ(), "IMAGE_BUILDER_MUTANT="+defect)
		out, err := cmd.CombinedOutput()
		if failed := err != nil; failed != (defect != "") {
			t.Errorf("Test_Reserve with the defect %q: %v\n%s", defect, err, out)
		}
	}
}
