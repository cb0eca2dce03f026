//go:build faults

package raftlog_test

import (
	"os"
	"os/exec"
	"testing"
)

// Test_Mutants turns on one defect after the other. The named test must fail with the
// defect and pass without it.
func Test_Mutants(t *testing.T) {
	if os.Getenv("IMAGE_BUILDER_MUTANT") != "" {
		t.Skip("this process runs the test of a mutant")
	}
	for mutant, by := range map[string]string{
		"list-before-file":               "Test_LogContract",
		"keep-refused-entries":           "Test_LogContract",
		"log-stays-broken":               "Test_DiskNearlyFull",
		"mark-survives-truncation":       "Test_MarkAheadAfterPowerLoss",
		"removed-entries-count":          "Test_LogContract_NoStoreAfterRemoval",
		"raft-needs-room":                "Test_NoRoom_TheTailTakesEntries",
		"damage-passes-for-a-torn-write": "Test_DamageAtTheEnd",
		"torn-index-counts":              "Test_TornIndex",
		"zeros-count-as-durable":         "Test_Clear_AfterAFailedSync",
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
