package node

import (
	"testing"
	"time"
)

// Test_UnknownPause_Grows checks that a command whose outcome stays unknown is repeated a few dozen
// times at most within leaderTimeout, and soon after the first unknown outcome.
func Test_UnknownPause_Grows(t *testing.T) {
	if first := unknownPause(0); first < minUnknownPause/2 || first >= minUnknownPause*3/2 {
		t.Errorf("the first pause is %s", first)
	}
	repeated := 0
	for total := time.Duration(0); total < leaderTimeout; repeated++ {
		d := unknownPause(repeated)
		if d > maxUnknownPause*3/2 {
			t.Fatalf("pause %d is %s", repeated, d)
		}
		total += d
	}
	if repeated > 60 {
		t.Errorf("%d repetitions within %s", repeated, leaderTimeout)
	}
	if d := unknownPause(1 << 20); d > maxUnknownPause*3/2 {
		t.Errorf("after many repetitions the pause is %s", d)
	}
}
