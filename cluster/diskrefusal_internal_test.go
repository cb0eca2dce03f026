package cluster

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/image-builder-ha/image-builder/cluster/raftlog"
)

// Test_DiskRefusal_OverTheWire: a follower reports why the leader refused a command because of its
// disk, and knows that the command was not proposed.
func Test_DiskRefusal_OverTheWire(t *testing.T) {
	full := fmt.Errorf("%w: it has 4 MiB left (%w)", raftlog.ErrNoRoom, syscall.ENOSPC)
	broken := fmt.Errorf("the disk under the replicated log cannot be written: %w", syscall.EIO)
	for name, c := range map[string]struct {
		err       error
		noRoom    bool
		want, not string
	}{
		"full":              {refuseForDisk("n1", full), true, "node n1 leads, but accepts no commands because of its disk: the disk of the data directory is nearly full: it has 4 MiB left", ErrNoLeader.Error()},
		"full, the advice":  {refuseForDisk("n1", full), true, "; make room on that disk", ErrNoLeader.Error()},
		"full, 0.3.0":       {fmt.Errorf("%w: %w", ErrNoLeader, full), true, "the leader accepts no commands: the disk of the data directory is nearly full", ErrNoLeader.Error()},
		"broken":            {refuseForDisk("n1", broken), false, "input/output error; check that disk", ErrNoLeader.Error()},
		"broken by ENOSPC":  {refuseForDisk("n1", syscall.ENOSPC), false, "make room on that disk", ErrNoLeader.Error()},
		"there is none":     {ErrNoLeader, false, ErrNoLeader.Error(), "disk"},
		"none, with detail": {fmt.Errorf("%w (the term is over)", ErrNoLeader), false, ErrNoLeader.Error(), "disk"},
	} {
		got := forwardError(outcomeStatus(c.err))
		if !errors.Is(got, ErrNoLeader) || errors.Is(got, raftlog.ErrNoRoom) != c.noRoom {
			t.Errorf("%s: %v is not proposed %v, no room %v", name, got, errors.Is(got, ErrNoLeader), errors.Is(got, raftlog.ErrNoRoom))
		}
		if !strings.Contains(got.Error(), c.want) || strings.Contains(got.Error(), c.not) {
			t.Errorf("%s: %q, want %q and not %q", name, got, c.want, c.not)
		}
	}
}
