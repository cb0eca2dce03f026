package cluster

import (
	"errors"

	"github.com/image-builder-ha/image-builder/cluster/fsm"
)

// Errors of the node.
var (
	// ErrNoLeader means that there was no leader until the caller's context ended. The command was
	// not proposed.
	ErrNoLeader = errors.New("no leader: the command was not proposed, ask again")
	// ErrOutcomeUnknown means that the command was proposed and may or may not be committed. A
	// retry is safe if the command is idempotent.
	ErrOutcomeUnknown = errors.New("the outcome of the command is unknown, ask again")
	// ErrRefused means that the leader refused the command. The command was not proposed.
	ErrRefused = errors.New("the leader refused the command, and it was not proposed")
	// ErrBehind means that the command is committed, but this node did not apply it in time and so
	// cannot return its result. Another node can.
	ErrBehind = errors.New("the command is committed, and this node is too far behind to return its result: ask again, preferably another node")
	// ErrClosed means that the node is closed.
	ErrClosed = fsm.ErrClosed
)
