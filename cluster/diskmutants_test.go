//go:build faults

package cluster_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

func Test_Mutants_OfTheDisk(t *testing.T) {
	testkit.Mutants(t, map[string]string{
		"writes-on-a-full-disk":         "Test_FullDisk_AllTogether",
		"disk-problems-ignored":         "Test_FullDisk_DoesNotStand",
		"refusals-delay-the-leader":     "Test_FullDisk_FollowersOnly",
		"hands-over-without-a-majority": "Test_FullDisk_NoMajority",
	})
}
