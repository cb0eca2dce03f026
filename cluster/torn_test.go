//go:build faults

package cluster_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/faults"
)

// Environment of the process that Test_Torn_Write starts: the index after which a write is torn,
// and the part of that write that reaches the file, in thousandths.
const (
	tornAfter = "CLUSTER_TEST_TORN_AFTER"
	tornAt    = "CLUSTER_TEST_TORN_AT"
)

func tear(index uint64) {
	after, err := strconv.ParseUint(os.Getenv(tornAfter), 10, 64)
	if at, _ := strconv.Atoi(os.Getenv(tornAt)); err == nil && index >= after {
		faults.Set(faults.State{DiskTorn: at})
	}
}

// Test_Torn_Write kills a node in the middle of a write of its log, at many positions of the write.
// It must start again with everything that was acknowledged.
func Test_Torn_Write(t *testing.T) {
	dir := t.TempDir()
	var last uint64
	acked := 0
	for _, at := range []int{1, 30, 100, 250, 400, 500, 600, 750, 900, 970, 999} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killDir+"="+dir, tornAfter+"="+strconv.FormatUint(last+5, 10), tornAt+"="+strconv.Itoa(at))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan(); acked++ {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatalf("after a write torn before this one at %d: %s", at, lines.Text())
			}
			if last, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("torn at %d: the process was not killed in a write: %v", at, err)
		}
	}
	sm := &tally{}
	n := open(t, fastConfig(dir, sm))
	if err := n.WaitApplied(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	// The torn command is gone, and it was never acknowledged.
	if got := len(sm.values()); got != acked || acked < 11 {
		t.Errorf("%d commands are there, %d were acknowledged", got, acked)
	}
	t.Logf("%d commands acknowledged around 11 torn writes", acked)
}
