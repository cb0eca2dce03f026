package cli

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit statuses of all commands.
const (
	ExitFailed      = 1   // the build failed
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

// ExplainBuild is Explain for a call about one build. If the build is not found, the message names
// it.
func (f *Flags) ExplainBuild(name string, err error) error {
	if status.Code(err) == codes.NotFound {
		err = status.Errorf(codes.NotFound, "%s: %s ('image-builder list' shows the builds that are kept)", name, status.Convert(err).Message())
	}
	return f.Explain(err)
}

// Explain returns the error of a gRPC call as one for people, with its exit status. It returns nil
// and errors of ExitWith as they are.
func (f *Flags) Explain(err error) error {
	if _, _, known := ExitStatus(err); err == nil || known {
		return err
	}
	st := status.Convert(err)
	text := errors.New(st.Message())
	switch st.Code() {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.NotFound, codes.Unauthenticated, codes.OutOfRange:
		return ExitWith(ExitUsage, text)
	case codes.Canceled:
		return ExitWith(ExitInterrupted, errors.New("interrupted"))
	case codes.Unavailable, codes.DeadlineExceeded:
		if strings.HasPrefix(st.Message(), "connection error") || strings.HasPrefix(st.Message(), "name resolver error") {
			text = fmt.Errorf("%s is unreachable: %s. Check that a node runs there, or name another one with --server", f.Server, st.Message())
		}
	case codes.Unimplemented:
		text = fmt.Errorf("%s is not an image builder, or an older version of it: %s", f.Server, st.Message())
	}
	return ExitWith(ExitUnavailable, text)
}
