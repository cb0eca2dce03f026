package builds

import (
	"errors"
	"fmt"
)

// Errors of the state and of its readers. Package api maps them to gRPC codes.
var (
	// ErrNotFound means that the build does not exist.
	ErrNotFound = errors.New("build not found")
	// ErrNotCached means that the reference is not in the cache.
	ErrNotCached = errors.New("the reference is not cached; 'cache list' shows all cached references")
	// ErrRequestReused means that the request id was used for another request.
	ErrRequestReused = errors.New("the request id was used before for another request; choose a new one")
	// ErrRequestForgotten means that the request id is known, but retention removed its build.
	ErrRequestForgotten = errors.New("the build of this request id ended and was removed by retention; repeat the request with a new request id")
	// ErrQueueFull means that no more builds are accepted.
	ErrQueueFull = errors.New("the queue of builds is full")
	// ErrRequesterQueueFull means that no more builds of the requester are accepted.
	ErrRequesterQueueFull = errors.New("the requester has as many queued builds as it may have (builds.queuedPerRequester)")
	// ErrTooManyRequests means that the state cannot remember one more request id.
	ErrTooManyRequests = errors.New("the cluster keeps as many request ids as it can, each for requestIds.age")
	// ErrSecretsLost means that the request has secrets and the command that creates its build has
	// none.
	ErrSecretsLost = errors.New("the secrets of the request were lost before its build was created; repeat the request")
	// ErrOtherSuccessor means that another build waits for the end of the active build of the image,
	// which does not do what the forced request demands.
	ErrOtherSuccessor = errors.New("a build of the image is being stopped, and another one, which is not forced, waits for its end; repeat the request")
	// ErrLookAgain means that a build of the image succeeded a while ago, and that the request looked
	// for the image before that.
	ErrLookAgain = errors.New("the image was looked for on a node that was behind, and may exist by now; repeat the request")
	// ErrNotRequester means that the caller did not request the build.
	ErrNotRequester = errors.New("only a requester of the build or an operator can cancel it")
	// ErrTooLate means that the build can no longer be cancelled, because it is being published.
	ErrTooLate = errors.New("the build is being published and can no longer be cancelled")
	// ErrNotDue means that the deadline of the build is after the time of the command.
	ErrNotDue = errors.New("the deadline of the build has not passed yet")
	// ErrFenced means that the attempt has ended, or that a new owner took over.
	ErrFenced = errors.New("the attempt has ended or has another owner")
	// ErrStopping means that the build must not be published, because its stop was requested.
	ErrStopping = errors.New("the build was asked to stop")
	// ErrDigestCommitted means that another digest was committed for the build.
	ErrDigestCommitted = errors.New("another digest was committed for this build and is still in the registry")
	// ErrLogAway means that no node that stores the log can be reached.
	ErrLogAway = errors.New("the node that keeps the log does not answer now")
	// ErrLogDamaged means that all copies of the log are damaged or missing.
	ErrLogDamaged = errors.New("no node has an undamaged copy of the log")
	// ErrResubscribe means that the watcher is too far behind, or that the state was replaced. The
	// watcher has to start again with a snapshot.
	ErrResubscribe = errors.New("events after this index are no longer kept; subscribe again from a snapshot")
)

// fatalError stops the node. If it continued, its state would differ from that of the other nodes.
type fatalError struct{ msg string }

func (e *fatalError) Error() string { return e.msg }

// Fatal returns true. Package cluster stops the node if a state machine returns such an error.
func (e *fatalError) Fatal() bool { return true }

func fatalf(format string, args ...any) error {
	return &fatalError{fmt.Sprintf(format, args...)}
}

// InvalidError is the error of an invalid request or command.
type InvalidError struct{ Reason string }

// Error returns the reason.
func (e *InvalidError) Error() string { return e.Reason }

func invalidf(format string, args ...any) error {
	return &InvalidError{fmt.Sprintf(format, args...)}
}
