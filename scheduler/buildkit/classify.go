package buildkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// classify returns the failure of a solve, with the blame. A failure that this process has caused
// itself is known. The others are judged by the typed errors of the daemon and by the step in which
// they arose.
func (s *solving) classify(ctx context.Context, err error) error {
	if s.refused != nil {
		err = s.refused
	}
	var f *workload.Failure
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.policy.refusal() != nil:
		return s.policy.refusal()
	case s.progress.err() != nil:
		return infrastructureFailure(s.progress.err())
	case errors.As(err, &f):
		return f
	case errors.As(err, new(*unresponsiveError)):
		return infrastructureFailure(err)
	}
	text := plain(err)
	var exit *gatewaypb.ExitError
	if diskFull(err) && !errors.As(err, &exit) {
		s.runtime.pool.suspect(s.daemon)
		return infrastructureFailure(fmt.Errorf("the disk of the BuildKit daemon %s is full: %s", s.daemon.url, text))
	}
	if daemonFault(err) {
		s.runtime.pool.suspect(s.daemon)
		return infrastructureFailure(fmt.Errorf("the BuildKit daemon %s failed: %w", s.daemon.url, err))
	}
	step := s.progress.step(vertexOf(err))
	if errors.As(err, &exit) {
		return exited(exit.ExitCode, step, err)
	}
	switch {
	case step.fetches() && missingInGit(text):
		return userFailure(fmt.Errorf("load the git repository: %s", text))
	case step.pulls() && !missing(text), strings.Contains(text, "httpReadSeeker: "):
		// The base image exists and may be read, but cannot be pulled. A later step may pull its
		// layers, too; then the text holds the name of BuildKit's puller.
		return infrastructureFailure(fmt.Errorf("%s: %s", step.name, text))
	case strings.Contains(text, "network.host is not allowed"), strings.Contains(text, "security.insecure is not allowed"):
		return userFailure(errors.New(text))
	case len(errdefs.Sources(err)) > 0, vertexOf(err) == "" && s.refused == nil && !s.parsed:
		// The error is in a line of the Dockerfile, or in the input of the frontend.
		return userFailure(errors.New(excerpt(err) + text))
	}
	return infrastructureFailure(fmt.Errorf("%s: %s", step.name, text))
}

// exited returns the failure of a step that ended with an exit code.
func exited(code uint32, step stepView, err error) *workload.Failure {
	where := excerpt(err)
	lastOutput := ""
	if len(step.tail) > 0 {
		lastOutput = "\nlast output:\n  " + strings.Join(step.tail, "\n  ")
	}
	switch {
	case code == exitKilled:
		return failure(builds.BlameQuota, fmt.Sprintf("build failed: %s%s: exit code 137: the process was killed, usually because it needed more memory than is available: use less memory, or build with a higher limit%s", where, step.name, lastOutput), err)
	case strings.Contains(strings.ToLower(strings.Join(step.tail, "\n")), "no space left on device"):
		return failure(builds.BlameQuota, fmt.Sprintf("build failed: %s%s: exit code %d: the step found no space left on device: write less, or build with a higher limit%s", where, step.name, code, lastOutput), err)
	}
	return userFailure(fmt.Errorf("%s%s: exit code %d%s", where, step.name, code, lastOutput))
}

// excerpt returns the lines of the Dockerfile that an error refers to, or "" if it refers to none.
func excerpt(err error) string {
	sources := errdefs.Sources(err)
	if len(sources) == 0 {
		return ""
	}
	var b bytes.Buffer
	_ = sources[len(sources)-1].Print(&b) // writing to a buffer does not fail
	return b.String()
}

// vertexOf returns the digest of the step in which an error arose, or "".
func vertexOf(err error) string {
	var v *errdefs.VertexError
	if errors.As(err, &v) {
		return v.Digest
	}
	return ""
}

// plain returns the text of an error without prefixes that carry no information.
func plain(err error) string {
	text := err.Error()
	for _, prefix := range []string{"failed to solve: ", "failed to run Build function: ", "rpc error: code = Unknown desc = "} {
		text = strings.TrimPrefix(text, prefix)
	}
	// COPY of a missing file: the text names an internal reference that means nothing to the user.
	if _, rest, ok := strings.Cut(text, "failed to calculate checksum of ref "); ok {
		if _, rest, ok := strings.Cut(rest, ": "); ok {
			return rest + ": check the path, the context and its .dockerignore file"
		}
	}
	return text
}

// daemonFault reports whether err is an error of the connection to the daemon, or of a daemon that
// is shutting down. It must be called only while the context of the solve is alive: then a
// cancellation comes from the daemon.
func daemonFault(err error) bool {
	var exit *gatewaypb.ExitError
	switch grpcerrors.Code(err) {
	case codes.Unavailable, codes.Canceled:
		return true
	case codes.DeadlineExceeded, codes.ResourceExhausted, codes.Internal:
		return !errors.As(err, &exit)
	}
	return errors.Is(err, context.Canceled)
}

// exitKilled is the exit code of a process that SIGKILL has ended, for example by the kernel when
// memory is short.
const exitKilled = 137
