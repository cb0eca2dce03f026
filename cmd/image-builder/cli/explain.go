package cli

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

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
		if isConnectionError(st) {
			text = fmt.Errorf("%s is unreachable: %s. Check that a node runs there, or name another one with --server", f.Server, st.Message())
		}
	case codes.Unimplemented:
		text = fmt.Errorf("%s is not an image builder, or an older version of it: %s", f.Server, st.Message())
	}
	return ExitWith(ExitUnavailable, text)
}

// ExplainBuild is Explain for a call about one build. If the build is not found, the message names
// it.
func (f *Flags) ExplainBuild(name string, err error) error {
	if status.Code(err) == codes.NotFound {
		err = status.Errorf(codes.NotFound, "%s: %s ('image-builder list' shows the builds that are kept)", name, status.Convert(err).Message())
	}
	return f.Explain(err)
}
