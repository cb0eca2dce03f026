//go:build faults

package raftlog_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

func Test_Mutants(t *testing.T) {
	testkit.Mutants(t, map[string]string{
		"list-before-file":               "Test_LogContract",
		"keep-refused-entries":           "Test_LogContract",
		"log-stays-broken":               "Test_DiskNearlyFull",
		"mark-survives-truncation":       "Test_MarkAheadAfterPowerLoss",
		"removed-entries-count":          "Test_LogContract_NoStoreAfterRemoval",
		"raft-needs-room":                "Test_NoRoom_TheTailTakesEntries",
		"damage-passes-for-a-torn-write": "Test_DamageAtTheEnd",
		"torn-index-counts":              "Test_TornIndex",
		"zeros-count-as-durable":         "Test_Clear_AfterAFailedSync",
	})
}
