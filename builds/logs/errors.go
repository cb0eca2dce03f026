package logs

import (
	"errors"
	"fmt"
	"syscall"
)

// Errors of the store.
var (
	// ErrNotFound: there is no such log.
	ErrNotFound = errors.New("log not found")
	// ErrFenced: the log has a writer of a greater epoch.
	ErrFenced = errors.New("the log has a newer owner")
	// ErrSealed: the log is complete.
	ErrSealed = errors.New("the log is complete and takes no more output")
	// ErrReleased: the writer was closed.
	ErrReleased = errors.New("the writer of the log is closed")
	// ErrNoSpace: the disk under the logs is full.
	ErrNoSpace = errors.New("the disk under the logs is full: free space, or move logs away")
	// ErrClosed: the store is closed.
	ErrClosed = errors.New("the log store is closed")
)

// spaceError names a full disk as such.
func spaceError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w (%w)", ErrNoSpace, err)
	}
	return err
}
