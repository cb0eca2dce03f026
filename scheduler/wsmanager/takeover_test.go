package wsmanager

import (
	"fmt"
	"strings"
	"testing"
)

// Test_Replay_TwoAdoptions adopts the output of a build of 30 kB twice. The first owner has stored
// 10,000 bytes. The second owner receives the replay so slowly that it gives up the comparison,
// writes a marker, and stores the output from the start of the terminal to byte 12,000. The third
// owner receives the whole replay at once. No line of the build may be missing from the log.
func Test_Replay_TwoAdoptions(t *testing.T) {
	var lines []string
	for i := 0; len(lines) < 1200; i++ {
		lines = append(lines, fmt.Sprintf("line %05d of the build\n", i))
	}
	terminal := []byte(strings.Join(lines, ""))
	log := &memory{}
	adopt := func() *replay { return &replay{out: newOutput(log, 256<<10, 64<<10)} }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(adopt().take(terminal[:10_000]))
	second := adopt()
	check(second.take(terminal[:4000]))
	for i := range maxQuietPauses {
		check(second.quiet(i == maxQuietPauses-1))
	}
	check(second.take(terminal[4000:12_000]))
	third := adopt()
	check(third.take(terminal[:28_000]))
	check(third.quiet(true))
	check(third.take(terminal[28_000:]))
	missing := 0
	for _, l := range lines {
		if !strings.Contains(log.String(), l) {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d lines of the build are not in the log", missing, len(lines))
	}
}
