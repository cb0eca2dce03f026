package loginfo

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/supervisor"
)

const (
	// requestTimeout limits how long a client may take to send its request.
	requestTimeout = 30 * time.Second
	// writeTimeout limits how long a client may take to receive one message.
	writeTimeout = 30 * time.Second
)

// Builds is the source of logs and phases. It is implemented by api.Service.
type Builds interface {
	FollowLog(ctx context.Context, build string, send func(content []byte) error) error
	FollowPhase(ctx context.Context, build string, f func(*imagebuilderv1.Build) error) error
}

// Server serves the logs of all builds.
type Server struct {
	Builds Builds
	Tokens Tokens
	// Streams ends when the node stops. All streams end with it, so that clients connect to another
	// node.
	Streams context.Context
}

// begin returns the context of a request, which also ends with Streams.
func (s *Server) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.Streams, cancel)
	return ctx, func() { stop(); cancel() }
}

// buildFor returns the build that a request may read: the build that its path names or, if the path
// names none, that of the token. ok is false if the token does not allow it.
func (s *Server) buildFor(named, token string) (build string, ok bool) {
	if named == "" {
		return s.Tokens.BuildOf(token)
	}
	return named, s.Tokens.Valid(named, token)
}

// refusal is the error for a request without a valid token.
const refusal = "the token in the header " + TokenHeader + " is not one for this build"

// task returns the status of the only task of a build.
func task(b *imagebuilderv1.Build) *supervisor.TasksStatusResponse {
	t := &supervisor.TaskStatus{Id: TaskID, Terminal: TaskID, State: supervisor.TaskState_running}
	switch {
	case builds.Terminal(b.Phase):
		t.State = supervisor.TaskState_closed
	case len(b.Attempts) == 0:
		t.State = supervisor.TaskState_opening
	}
	return &supervisor.TasksStatusResponse{Tasks: []*supervisor.TaskStatus{t}}
}

// errFirst ends FollowPhase after its first call.
var errFirst = status.Error(codes.Aborted, "the first message is enough")
