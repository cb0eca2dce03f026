package verify

import (
	"errors"
	"testing"
)

// Test_ReadersOfUnreadableLogs covers a late reader that fails before the first byte, and one that
// reaches the end of a log without receiving a byte.
func Test_ReadersOfUnreadableLogs(t *testing.T) {
	end := End{Build: "b", Phase: "succeeded", Attempts: []AttemptState{{Number: 1, LogState: "sealed", LogLength: 38}}}
	for err, want := range map[error]string{
		errors.New("no copy is complete"): "reader late could not read the log of attempt 1 of build b after its end, after byte 0: no copy is complete",
		nil:                               "reader late got 0 bytes (xxh64:ef46db3751d8e999) of the log of attempt 1 of build b, which has 38 ()",
	} {
		d := &reader{name: "late", build: "b", late: true, err: err}
		got := judgeLogs(&Evidence{Ends: []End{end}, Logs: d.record(end)})
		if len(got) != 1 || got[0].Message != want {
			t.Errorf("%v: %v, want %s", err, got, want)
		}
	}
}
