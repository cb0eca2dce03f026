package builds

import (
	"errors"
	"fmt"
)

// Errors of the domain. api_errors.go maps them to gRPC codes.
var (
	// ErrNotFound: there is no such build.
	ErrNotFound = errors.New("build not found")
	// ErrRequestReused: the request id was used for another request.
	ErrRequestReused = errors.New("the request id was used before for another request; choose a new one")
	// ErrRequestForgotten: the request id is known but retention removed its build.
	ErrRequestForgotten = errors.New("the build of this request id ended and was removed by retention; ask again with a new request id")
	// ErrQueueFull: no more builds are accepted.
	ErrQueueFull = errors.New("the queue of builds is full; try again later")
	// ErrNotRequester: the caller has no part in the build.
	ErrNotRequester = errors.New("only somebody who requested the build, or an operator, can cancel it")
	// ErrLogAway: the node that keeps the log does not answer.
	ErrLogAway = errors.New("the node that keeps the log does not answer now")
	// ErrLogDamaged: no copy of the log holds what was written.
	ErrLogDamaged = errors.New("the log is damaged on all nodes that keep it")
	// ErrTooLate: the build is being published and can no longer be cancelled.
	ErrTooLate = errors.New("the build is being published, too late to cancel it")
	// ErrNotDue: the deadline of the build has not come by the time of the command.
	ErrNotDue = errors.New("the deadline of the build has not come yet")
	// ErrFenced: a command came from an attempt or epoch that is over.
	ErrFenced = errors.New("the attempt is over or has another owner")
	// ErrStopping: the build shall stop, it must not be published any more.
	ErrStopping = errors.New("the build was asked to stop")
	// ErrDigestCommitted: another digest was committed for the build.
	ErrDigestCommitted = errors.New("another digest was committed for this build and is still in the registry")
	// ErrStale: the decision was made on an older version of the build.
	ErrStale = errors.New("the build has changed since the decision")
	// ErrResubscribe: the watcher fell behind what is kept, or the state was
	// replaced; it has to start again with a snapshot.
	ErrResubscribe = errors.New("events after this index are no longer kept; subscribe again from a snapshot")
)

// ErrNotCached: there is no such reference in the cache.
var ErrNotCached = errors.New("it is not cached; 'cache list' shows what is")

// fatalError stops the node: going on would let its state differ from the
// other nodes'.
type fatalError struct{ msg string }

func (e *fatalError) Error() string { return e.msg }

// Fatal marks the error for the Raft adapter.
func (e *fatalError) Fatal() bool { return true }

func fatalf(format string, args ...any) error {
	return &fatalError{fmt.Sprintf(format, args...)}
}

// InvalidError tells what is wrong with a request.
type InvalidError struct{ Reason string }

// Error returns the reason.
func (e *InvalidError) Error() string { return e.Reason }

func invalidf(format string, args ...any) error {
	return &InvalidError{fmt.Sprintf(format, args...)}
}
