package loginfo_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/image-builder-ha/image-builder/api/loginfo"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const build = "0192d3c4-5e6f-7a8b-9c0d-1e2f3a4b5c6d"

// fakeBuilds has one build, whose phases and log the test sends.
type fakeBuilds struct {
	phase chan *imagebuilderv1.Build
	log   chan string
	err   error         // of FollowLog once log is closed
	gone  chan struct{} // closed when the context of FollowLog ends
	once  sync.Once
}

func (f *fakeBuilds) FollowLog(ctx context.Context, id string, send func([]byte) error) error {
	if id != build {
		return status.Error(codes.NotFound, "build not found")
	}
	for {
		select {
		case s, ok := <-f.log:
			if !ok {
				return f.err
			}
			if err := send([]byte(s)); err != nil {
				return err
			}
		case <-ctx.Done():
			f.once.Do(func() { close(f.gone) })
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (f *fakeBuilds) FollowPhase(ctx context.Context, id string, see func(*imagebuilderv1.Build) error) error {
	if id != build {
		return status.Error(codes.NotFound, "build not found")
	}
	for {
		select {
		case b := <-f.phase:
			if err := see(b); err != nil || builds.Terminal(b.Phase) {
				return err
			}
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// world is a server with one build.
type world struct {
	t      *testing.T
	b      *fakeBuilds
	url    string
	tokens loginfo.Tokens
	token  string // of build
	stop   context.CancelFunc
}

// newTokens returns tokens under a new key.
func newTokens(t *testing.T) loginfo.Tokens {
	t.Helper()
	return loginfo.Tokens{Keys: buildstest.MustKeyring(t, filepath.Join(t.TempDir(), "key"))}
}

// newToken returns a token for the log of a build.
func newToken(t *testing.T, tokens loginfo.Tokens, build string) string {
	t.Helper()
	token, err := tokens.New(build)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, tokens: newTokens(t), b: &fakeBuilds{phase: make(chan *imagebuilderv1.Build, 8), log: make(chan string, 8), gone: make(chan struct{})}}
	w.token = newToken(t, w.tokens, build)
	var streams context.Context
	streams, w.stop = context.WithCancel(context.Background())
	srv := httptest.NewServer((&loginfo.Server{Builds: w.b, Tokens: w.tokens, Streams: streams}).Handler())
	t.Cleanup(func() { w.stop(); srv.Close() })
	w.url = srv.URL
	return w
}

func (w *world) get(path, token string) *http.Response {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	w.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("X-Gitpod-Owner-Token", token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// roots are the paths under which clients call the supervisor: that of the address of the log, and
// the root of its host.
var roots = map[string]string{"the build's own path": "/builds/" + build, "the root": ""}

func running() *imagebuilderv1.Build {
	return &imagebuilderv1.Build{Id: build, Phase: imagebuilderv1.Phase_PHASE_RUNNING, Attempts: []*imagebuilderv1.Attempt{{Number: 1}}}
}

// message encodes a string field of a message by its number.
func message(number protowire.Number, value string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), value))
}

const (
	listenMethod = "supervisor.TaskService/ListenToOutput"
	tasksMethod  = "supervisor.StatusService/TasksStatus"
)
