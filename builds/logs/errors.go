package logs

import "errors"

// Errors of the store.
var (
	// ErrNotFound means that there is no such log.
	ErrNotFound = errors.New("log not found")
	// ErrMoved means that the log no longer has its owner on this node.
	ErrMoved = errors.New("the log continues on another node")
	// ErrDamaged means that the disk does not hold what was written.
	ErrDamaged = errors.New("the log is damaged")
	// ErrFenced means that the log has an owner of a greater epoch.
	ErrFenced = errors.New("the log has a newer owner")
	// ErrSealed means that the log is complete.
	ErrSealed = errors.New("the log is complete and accepts no more output")
	// ErrNoSpace means that the disk under the logs is full.
	ErrNoSpace = errors.New("the disk under the logs is full: free space, or move logs away")
	// ErrShort means that this node's copy ends before the end of the log.
	ErrShort = errors.New("this copy of the log is not complete")
	// ErrClosed means that the store is closed.
	ErrClosed = errors.New("the log store is closed")
)
