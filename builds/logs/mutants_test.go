//go:build faults

package logs_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

func Test_Mutants(t *testing.T) {
	testkit.Mutants(t, map[string]string{
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
		"damage-of-a-removed-log":     "Test_Damage_FoundDuringARemoval",
		"reads-wait-for-the-disk":     "Test_Reader_GivesUpOnReadsThatHang",
		"logs-take-the-reserve":       "Test_Reserve",
	})
}
