//go:build faults

package logs_test

import (
	"os"
	"os/exec"
	"testing"
)

// Test_Mutants turns on one defect after the other. The named test must fail with the defect and
// pass without it.
func Test_Mutants(t *testing.T) {
	if os.Getenv("IMAGE_BUILDER_MUTANT") != "" {
		t.Skip("this process runs the test of a mutant")
	}
	for mutant, by := range map[string]string{
		"show-before-replicated":      "Test_Copies_ReadersSeeWhatAllHold",
		"append-without-fence":        "Test_Copies_FenceOutlivesARestart",
		"seal-without-fence":          "Test_Copies_FencedCopyRefusesTheFormerOwner",
		"copies-without-incarnation":  "Test_Incarnation_ALateReset",
		"records-of-any-size":         "Test_Record_OutputThatWasHeldBack",
		"no-position-after-the-limit": "Test_Position_AfterTheLimit",
		"held-by-the-owner-alone":     "Test_Held",
		"seal-without-freeze":         "Test_Seal_FreezesTheEnd",
		"runs-of-any-length":          "Test_Redact_PeriodicSecretIsNotHeldBack",
		"redact-under-the-flush-lock": "Test_Redact_DelaysNoOtherLog",
		"cut-before-reading":          "Test_Cut_AFailedReadChangesNothing",
	} {
		for _, defect := range []string{"", mutant} {
			cmd := exec.Command(os.Args[0], "-test.run", "^"+by+"$", "-test.timeout", "1m")
			cmd.Env = append(os.Environ(), "IMAGE_BUILDER_MUTANT="+defect)
			out, err := cmd.CombinedOutput()
			if failed := err != nil; failed != (defect != "") {
				t.Errorf("%s with the defect %q: %v\n%s", by, defect, err, out)
			}
		}
		t.Logf("%s is caught by %s", mutant, by)
	}
}
