package loginfo

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/supervisor"
)

// TokenHeader carries the token, as it carries that of a workspace's owner
// (contract section 4).
const TokenHeader = "x-gitpod-owner-token"

// TaskID is the id of the one task that a build has, and the alias of its
// terminal.
const TaskID = "build"

const root = "/builds/"

// Path is where the log of a build is found, without a slash at its end.
func Path(build string) string { return root + build }

// Info is what clients are told: the address, and the token for those who may
// have it.
func Info(publicURL, build, token string) *builder.LogInfo {
	i := &builder.LogInfo{Url: strings.TrimRight(publicURL, "/") + Path(build)}
	if token != "" {
		i.Headers = map[string]string{TokenHeader: token}
	}
	return i
}

// Builds is where logs and phases come from; builds.Service is one.
type Builds interface {
	FollowLog(ctx context.Context, build string, send func(content []byte) error) error
	FollowPhase(ctx context.Context, build string, f func(*imagebuilderv1.Build) error) error
}

// Tokens says what may be read; builds.Keyring is one.
type Tokens interface {
	// CheckLogToken reports whether a token is one for the log of a build.
	CheckLogToken(build, token string) bool
	// BuildOfLogToken answers the build that a token is for.
	BuildOfLogToken(token string) (build string, ok bool)
}

// Server answers for all builds.
type Server struct {
	Builds Builds
	Tokens Tokens
	// Streams, when it ends, ends all streams; clients come again elsewhere.
	Streams context.Context
}

// Handler answers requests below the path of a build, and at the root: some
// clients put /_supervisor/v1 in the place of the whole path of the address
// that they were given.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, base := range []string{root + "{build}/_supervisor/v1/", "/_supervisor/v1/"} {
		mux.HandleFunc("GET "+base+"status/tasks", s.tasks)
		mux.HandleFunc("GET "+base+"terminal/listen/{task}", s.listen)
		mux.HandleFunc("GET "+base+"task/listen/{task}/output", s.listen)
		mux.HandleFunc(base+"supervisor.StatusService/TasksStatus", s.method(s.watchTasks))
		mux.HandleFunc(base+"supervisor.TaskService/ListenToOutput", s.method(s.listenToOutput))
	}
	return mux
}

// begin bounds a request by the life of the service.
func (s *Server) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.Streams, cancel)
	return ctx, func() { stop(); cancel() }
}

// buildFor answers the build that a token opens: the one that the path names,
// or that of the token where it names none.
func (s *Server) buildFor(named, token string) (build string, ok bool) {
	if named == "" {
		return s.Tokens.BuildOfLogToken(token)
	}
	return named, s.Tokens.CheckLogToken(named, token)
}

// allowed refuses a request without the build's token.
func (s *Server) allowed(w http.ResponseWriter, r *http.Request) (build string, ok bool) {
	if build, ok = s.buildFor(r.PathValue("build"), r.Header.Get(TokenHeader)); !ok {
		http.Error(w, refusal, http.StatusUnauthorized)
	}
	return build, ok
}

const refusal = "the token in the header " + TokenHeader + " is not one for this build"

// task describes a build as a task.
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

// errFirst ends a stream after its first message.
var errFirst = status.Error(codes.Aborted, "the first message is enough")

func (s *Server) tasks(w http.ResponseWriter, r *http.Request) {
	build, ok := s.allowed(w, r)
	if !ok {
		return
	}
	ctx, cancel := s.begin(r.Context())
	defer cancel()
	var res *supervisor.TasksStatusResponse
	err := s.Builds.FollowPhase(ctx, build, func(b *imagebuilderv1.Build) error {
		res = task(b)
		return errFirst
	})
	if res == nil {
		httpError(w, err)
		return
	}
	raw, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(res)
	if err != nil {
		httpError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]json.RawMessage{"result": raw})
}

// httpError answers an error of the service as HTTP says it.
func httpError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch status.Code(err) {
	case codes.NotFound:
		code = http.StatusNotFound
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		code = http.StatusServiceUnavailable
	}
	http.Error(w, status.Convert(err).Message(), code)
}

// output is one JSON value of a stream, as grpc-gateway writes them.
type output struct {
	Result struct {
		Data []byte `json:"data"`
	} `json:"result"`
}

func (s *Server) listen(w http.ResponseWriter, r *http.Request) {
	build, ok := s.allowed(w, r)
	if !ok {
		return
	}
	if r.PathValue("task") != TaskID {
		http.Error(w, "a build has one task and one terminal, both named "+TaskID, http.StatusNotFound)
		return
	}
	ctx, cancel := s.begin(r.Context())
	defer cancel()
	began := false
	begin := func() {
		if !began {
			began = true
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Accel-Buffering", "no") // proxies pass it on at once
			w.WriteHeader(http.StatusOK)
		}
	}
	out := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	err := s.Builds.FollowLog(ctx, build, func(content []byte) error {
		begin()
		var o output
		o.Result.Data = content
		_ = out.SetWriteDeadline(time.Now().Add(writeTime))
		if err := enc.Encode(o); err != nil {
			return err
		}
		return out.Flush()
	})
	_ = out.SetWriteDeadline(time.Now().Add(writeTime)) // for how it ends
	switch {
	case err == nil:
		begin()
	case !began:
		httpError(w, err)
	default:
		// The client must not take this for the end of the log.
		panic(http.ErrAbortHandler)
	}
}
