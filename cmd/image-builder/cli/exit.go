package cli

import "errors"

// Exit statuses of all commands.
const (
	ExitFailed      = 1   // the build failed
	ExitUsage       = 2   // wrong usage, or a request that can never work
	ExitUnavailable = 3   // the service cannot be reached or cannot answer now
	ExitInterrupted = 130 // Ctrl-C
)

// exitError is an error with the status to exit with. Without an error nothing is printed.
type exitError struct {
	code int
	err  error
}

// Error returns the text of the error, "" without one.
func (e exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

// Unwrap returns the error, which may be nil.
func (e exitError) Unwrap() error { return e.err }

// exitWith returns err as the error of a command that ends with the exit status code. A nil err
// prints nothing.
func ExitWith(code int, err error) error { return exitError{code, err} }

// exitStatus returns the exit status that err asks for, and the error to print, which may be nil.
// known is false for errors that exitWith did not make.
func ExitStatus(err error) (code int, text error, known bool) {
	var e exitError
	if !errors.As(err, &e) {
		return ExitUsage, err, false
	}
	return e.code, e.err, true
}
