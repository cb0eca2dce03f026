package buildkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"syscall"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// maxMessage bounds a failure's message, in bytes: it is replicated.
const maxMessage = 4 << 10

// exitKilled is the exit code of a process that was ended by SIGKILL, as the
// kernel does when memory is short.
const exitKilled = 137

func userFailure(err error) *workload.Failure {
	return failure(builds.BlameUser, "build failed: "+err.Error(), err)
}

func infrastructureFailure(err error) *workload.Failure {
	return failure(builds.BlameInfrastructure, err.Error(), err)
}

func failure(blame imagebuilderv1.Blame, message string, err error) *workload.Failure {
	return &workload.Failure{Blame: blame, Message: strings.TrimSpace(message), Err: err}
}

// bounded cuts the message of a failure, which is free of secrets by then: one
// that is cut through would not be known any more.
func bounded(err error, redact func(string) string) error {
	var f *workload.Failure
	if !errors.As(err, &f) {
		return err
	}
	out := *f
	if out.Message = redact(f.Message); len(out.Message) > maxMessage {
		out.Message = strings.ToValidUTF8(out.Message[:maxMessage], "") + " ..."
	}
	return &out
}

func noDockerfile(l layout, err error) *workload.Failure {
	return userFailure(fmt.Errorf("there is no Dockerfile at %s in the build context: %w", strings.Join(l.dockerfiles, " or "), err))
}

// failed finds out whose fault the failure of a solve is. What this process
// decided itself is known; for the rest the daemon's typed errors count, and
// where in the build they arose.
func (s *solving) failed(ctx context.Context, err error) error {
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
	case errors.As(err, new(*silentError)):
		return infrastructureFailure(err)
	}
	text := plain(err)
	var exit *gatewaypb.ExitError
	if diskFull(err) && !errors.As(err, &exit) {
		s.runtime.pool.doubt(s.daemon)
		return infrastructureFailure(fmt.Errorf("the disk of the BuildKit daemon %s is full: %s", s.daemon.url, text))
	}
	if daemonFault(err) {
		s.runtime.pool.doubt(s.daemon)
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
		// A base image that exists, may be read, and cannot be pulled. Layers
		// are pulled by the step that needs them: there the puller's name tells.
		return infrastructureFailure(fmt.Errorf("%s: %s", step.name, text))
	case strings.Contains(text, "network.host is not allowed"), strings.Contains(text, "security.insecure is not allowed"):
		return userFailure(errors.New(text))
	case len(errdefs.Sources(err)) > 0, vertexOf(err) == "" && s.refused == nil && !s.parsed:
		// A line of the Dockerfile, or what the frontend made of it.
		return userFailure(errors.New(excerpt(err) + text))
	}
	return infrastructureFailure(fmt.Errorf("%s: %s", step.name, text))
}

// exited words the end of a step that returned an exit code.
func exited(code uint32, step stepView, err error) *workload.Failure {
	where := excerpt(err)
	said := ""
	if len(step.tail) > 0 {
		said = "\nlast output:\n  " + strings.Join(step.tail, "\n  ")
	}
	switch {
	case code == exitKilled:
		return failure(builds.BlameQuota, fmt.Sprintf("build failed: %s%s: exit code 137: the process was killed, as happens when it needs more memory than there is: use less, or build where more is allowed%s", where, step.name, said), err)
	case strings.Contains(strings.ToLower(strings.Join(step.tail, "\n")), "no space left on device"):
		return failure(builds.BlameQuota, fmt.Sprintf("build failed: %s%s: exit code %d: the step found no space left on device: write less, or build where more is allowed%s", where, step.name, code, said), err)
	}
	return userFailure(fmt.Errorf("%s%s: exit code %d%s", where, step.name, code, said))
}

// excerpt shows the lines of the Dockerfile that an error is about.
func excerpt(err error) string {
	sources := errdefs.Sources(err)
	if len(sources) == 0 {
		return ""
	}
	var b bytes.Buffer
	_ = sources[len(sources)-1].Print(&b) // a buffer does not fail
	return b.String()
}

// vertexOf answers the digest of the step that an error arose in, or "".
func vertexOf(err error) string {
	var v *errdefs.VertexError
	if errors.As(err, &v) {
		return v.Digest
	}
	return ""
}

// plain is the error's text without the layers that say nothing.
func plain(err error) string {
	text := err.Error()
	for _, prefix := range []string{"failed to solve: ", "failed to run Build function: ", "rpc error: code = Unknown desc = "} {
		text = strings.TrimPrefix(text, prefix)
	}
	// A file that COPY does not find comes with names that mean nothing here.
	if _, rest, ok := strings.Cut(text, "failed to calculate checksum of ref "); ok {
		if _, rest, ok := strings.Cut(rest, ": "); ok {
			return rest + ": check the path, the context and its .dockerignore file"
		}
	}
	return text
}

// daemonFault reports an error of the connection to the daemon, or of a daemon
// that ends. Nobody else cancels a solve whose context is alive.
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

func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), syscall.ENOSPC.Error())
}

// missing reports a base image, or a platform of it, that does not exist.
func missing(text string) bool {
	return strings.Contains(text, "not found") || strings.Contains(text, "no match for platform")
}

// missingInGit reports a ref or folder that a repository does not have. That
// the repository can be read was seen before.
func missingInGit(text string) bool {
	for _, phrase := range []string{"does not contain ref", "couldn't find remote ref", "not our ref", "unadvertised object", "reference is not a tree", "invalid subdir"} {
		if strings.Contains(text, phrase) {
			return true
		}
	}
	return false
}

// withoutURL takes the URL out of an error of an HTTP client.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
