//go:build faults

package cluster_test

import (
	"os"
	"os/exec"
	"testing"
)

// Test_Mutants_OfTheDisk turns on one defect after the other. The named test must fail with the
// defect and pass without it.
func Test_Mutants_OfTheDisk(t *testing.T) {
	if os.Getenv("IMAGE_BUILDER_MUTANT") != "" {
		t.Skip("this process runs the test of a mutant")
	}
	for mutant, by := range map[string]string{
		"writes-on-a-full-disk":         "Test_FullDisk_AllTogether",
		"disk-problems-ignored":         "Test_FullDisk_DoesNotStand",
		"refusals-delay-the-leader":     "Test_FullDisk_FollowersOnly",
		"hands-over-without-a-majority": "Test_FullDisk_NoMajority",
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
