package testkit

import (
	"os"
	"os/exec"
	"testing"
)

// Mutants turns on one defect of package faults after the other. by names the test that must fail
// with each, and pass without it. The tests run in processes of their own, two minutes each at most.
func Mutants(t *testing.T, by map[string]string) {
	t.Helper()
	const variable = "IMAGE_BUILDER_MUTANT"
	if os.Getenv(variable) != "" {
		t.Skip("this process runs the test of a mutant")
	}
	ran := map[string]bool{}
	for mutant, test := range by {
		defects := []string{"", mutant}
		if ran[test] { // without a defect
			defects = defects[1:]
		}
		ran[test] = true
		for _, defect := range defects {
			cmd := exec.Command(os.Args[0], "-test.run", "^"+test+"$", "-test.timeout", "2m")
			cmd.Env = append(os.Environ(), variable+"="+defect)
			out, err := cmd.CombinedOutput()
			if failed := err != nil; failed != (defect != "") {
				t.Errorf("%s with the defect %q: %v\n%s", test, defect, err, out)
			}
		}
		t.Logf("%s is caught by %s", mutant, test)
	}
}
