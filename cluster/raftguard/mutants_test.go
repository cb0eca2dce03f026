//go:build faults

package raftguard_test

import (
	"os"
	"os/exec"
	"testing"
)

// Test_Mutants turns on a defect. The named test must fail with the defect and pass without it.
func Test_Mutants(t *testing.T) {
	if os.Getenv("IMAGE_BUILDER_MUTANT") != "" {
		t.Skip("this process runs the test of a mutant")
	}
	const mutant, by = "snapshot-is-no-entry", "Test_AfterSnapshot_Repeated"
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
