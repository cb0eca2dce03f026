package cli

import "errors"

// Exit statuses of all commands.
const (
	ExitFailed      = 1   // the build failed or was cancelled
	ExitUsage       = 2   // wrong usage, or a request that can never succeed
	ExitUnavailable = 3   // the service is unreachable or unavailable
	ExitInterrupted = 130 // Ctrl-C
)

// exitError is an error with an exit status. Without a text nothing is printed.
type exitError struct {
	code int
	err  error
}

// Error returns the text of the error, or "" if there is none.
func (e exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

// Unwrap returns the error, which may be nil.
func (e exitError) Unwrap() error { return e.err }

// ExitWith returns err as the error of a command that ends with the exit status code. If err is
// nil, the command prints nothing.
func ExitWith(code int, err error) error { return exitError{code, err} }

// ExitStatus returns the exit status for err, and the error to print, which may be nil. known
// reports whether err comes from ExitWith; the status of other errors is ExitUsage.
func ExitStatus(err error) (code int, text error, known bool) {
	var e exitError
	if !errors.As(err, &e) {
		return ExitUsage, err, false
	}
	return e.code, e.err, true
}
