package cluster

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/image-builder-ha/image-builder/cluster/raftlog"
)

// diskRefusal means that the leader did not propose a command because of its disk. It wraps
// ErrNoLeader, because another leader may accept the command, and its cause.
type diskRefusal struct {
	text  string
	cause error
}

func (e *diskRefusal) Error() string   { return e.text }
func (e *diskRefusal) Unwrap() []error { return []error{ErrNoLeader, e.cause} }

// refusesText is a part of the text of each diskRefusal, by which a follower recognizes it.
const refusesText = "leads, but accepts no commands because of its disk"

// refuseForDisk returns the diskRefusal of a leader. problem is the problem of its disk.
func refuseForDisk(node string, problem error) error {
	advice := "check that disk"
	if errors.Is(problem, raftlog.ErrNoRoom) || errors.Is(problem, syscall.ENOSPC) {
		advice = "make room on that disk"
	}
	return &diskRefusal{fmt.Sprintf("node %s %s: %v; %s", node, refusesText, problem, advice), problem}
}

// forwardedRefusal returns the diskRefusal that the leader has reported with a text, or nil. Leaders of
// versions up to 0.3.0 begin the text of a full disk with that of ErrNoLeader.
func forwardedRefusal(text string) error {
	cause := errors.New("the disk of the leader cannot be written")
	if strings.Contains(text, raftlog.ErrNoRoom.Error()) {
		cause = raftlog.ErrNoRoom
	}
	switch rest, former := strings.CutPrefix(text, ErrNoLeader.Error()+": "); {
	case strings.Contains(text, refusesText):
		return &diskRefusal{text, cause}
	case former && cause == raftlog.ErrNoRoom:
		return &diskRefusal{"the leader accepts no commands: " + rest + "; make room on its disk", cause}
	}
	return nil
}
