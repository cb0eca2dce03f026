package fsm

import (
	"errors"
	"fmt"
	"io"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// StateMachine is the replicated state. One goroutine calls Apply and Restore. Snapshot and
// LastTime may run at the same time.
type StateMachine interface {
	// Apply applies one command and returns its result. It is called in the order of the log and
	// must be deterministic. If the result is an error with a method Fatal() bool that returns
	// true, the node stops: its binary does not know a command that the cluster has committed.
	// After a Restore for a restore of the whole cluster, Apply is called with a command that has
	// no payload and whose field restore is set: the feature level must not be lower than that of
	// the command.
	Apply(index uint64, cmd *clusterv1.Command) any
	// Snapshot returns the current state. The result is written while Apply continues.
	Snapshot() (io.WriterTo, error)
	// Restore replaces the state. If it returns an error, the state is unchanged. It reads r to the end
	// first: only then r returns an error if the snapshot is damaged.
	Restore(r io.Reader) error
	// LastTime returns the greatest time of an applied command, in nanoseconds since the Unix
	// epoch.
	LastTime() int64
}

// Applied is the result of a proposal.
type Applied struct {
	// Index is the index of the command in the log.
	Index uint64
	// Result is the value that StateMachine.Apply returned on this node.
	Result any
}

// ErrClosed means that the node is closed.
var ErrClosed = errors.New("the node is closed")

// ErrStopsApplying means that the node is closed while it waits for a snapshot. It applies the
// command after its next start.
var ErrStopsApplying = fmt.Errorf("the node waits for a snapshot to restore: %w", ErrClosed)
