package loginfo_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/api/loginfo"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const build = "0192d3c4-5e6f-7a8b-9c0d-1e2f3a4b5c6d"

// fakeBuilds has one build, whose log the test writes.
type fakeBuilds struct {
	phase chan *imagebuilderv1.Build
	log   chan string
	err   error // how the log ends
	gone  chan struct{}
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

type world struct {
	t     *testing.T
	b     *fakeBuilds
	url   string
	keys  *builds.Keyring
	token string
	stop  context.CancelFunc
}

func newWorld(t *testing.T) *world {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if err := builds.NewKeyFile(key); err != nil {
		t.Fatal(err)
	}
	keys, err := builds.LoadKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, keys: keys, b: &fakeBuilds{phase: make(chan *imagebuilderv1.Build, 8), log: make(chan string, 8), gone: make(chan struct{})}}
	if w.token, err = keys.LogToken(build); err != nil {
		t.Fatal(err)
	}
	var streams context.Context
	streams, w.stop = context.WithCancel(context.Background())
	srv := httptest.NewServer((&loginfo.Server{Builds: w.b, Tokens: keys, Streams: streams}).Handler())
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

// roots are the places where clients look: the address that they were told,
// and its host alone.
var roots = map[string]string{"the build's own path": "/builds/" + build, "the root": ""}

func running() *imagebuilderv1.Build {
	return &imagebuilderv1.Build{Id: build, Phase: imagebuilderv1.Phase_PHASE_RUNNING, Attempts: []*imagebuilderv1.Attempt{{Number: 1}}}
}

func Test_JSON_Tasks(t *testing.T) {
	for name, root := range roots {
		for phase, want := range map[string]struct {
			build *imagebuilderv1.Build
			state string
		}{
			"queued":  {&imagebuilderv1.Build{Id: build, Phase: builds.Queued}, "opening"},
			"running": {running(), "running"},
			"over":    {&imagebuilderv1.Build{Id: build, Phase: builds.Succeeded}, "closed"},
		} {
			t.Run(name+"/"+phase, func(t *testing.T) {
				w := newWorld(t)
				w.b.phase <- want.build
				res := w.get(root+"/_supervisor/v1/status/tasks", w.token)
				var got struct {
					Result struct {
						Tasks []struct{ ID, State, Terminal string }
					}
				}
				if err := json.NewDecoder(res.Body).Decode(&got); err != nil || res.StatusCode != 200 {
					t.Fatalf("%s, %v", res.Status, err)
				}
				if len(got.Result.Tasks) != 1 || got.Result.Tasks[0].State != want.state || got.Result.Tasks[0].ID != "build" || got.Result.Tasks[0].Terminal != "build" {
					t.Errorf("%+v", got)
				}
			})
		}
	}
}

func Test_JSON_Listen(t *testing.T) {
	for name, root := range roots {
		for _, path := range []string{"/_supervisor/v1/terminal/listen/build", "/_supervisor/v1/task/listen/build/output"} {
			t.Run(name+path, func(t *testing.T) {
				w := newWorld(t)
				w.b.log <- "one\n"
				res := w.get(root+path, w.token)
				dec := json.NewDecoder(res.Body)
				next := func() (string, error) {
					var v struct{ Result struct{ Data string } }
					err := dec.Decode(&v)
					raw, bad := base64.StdEncoding.DecodeString(v.Result.Data)
					return string(raw), errors.Join(err, bad)
				}
				if got, err := next(); err != nil || got != "one\n" {
					t.Fatalf("%q, %v", got, err)
				}
				w.b.log <- "two\xff\n" // comes while we read on, and need not be text
				close(w.b.log)
				if got, err := next(); err != nil || got != "two\xff\n" {
					t.Fatalf("%q, %v", got, err)
				}
				if _, err := next(); !errors.Is(err, io.EOF) {
					t.Errorf("after the end: %v", err)
				}
			})
		}
	}
}

// Test_JSON_ABrokenLogIsNoEnd: what ends with an error must not look complete.
func Test_JSON_ABrokenLogIsNoEnd(t *testing.T) {
	w := newWorld(t)
	w.b.log <- "one\n"
	res := w.get("/builds/"+build+"/_supervisor/v1/terminal/listen/build", w.token)
	w.b.err = status.Error(codes.Unavailable, "the node stops")
	close(w.b.log)
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the body ends as if it were complete")
	}
	w = newWorld(t)
	w.b.err = status.Error(codes.Unavailable, "nobody holds the log now")
	close(w.b.log)
	if res := w.get("/_supervisor/v1/terminal/listen/build", w.token); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a log that is away: %s", res.Status)
	}
}

func Test_Refusals(t *testing.T) {
	w := newWorld(t)
	const other = "0192d3c4-5e6f-7a8b-9c0d-1e2f3a4b5c6e"
	foreign, err := w.keys.LogToken(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		path, token string
		code        int
	}{
		"no token":                   {"/builds/" + build + "/_supervisor/v1/status/tasks", "", 401},
		"no token at the root":       {"/_supervisor/v1/status/tasks", "", 401},
		"another build's token":      {"/builds/" + build + "/_supervisor/v1/terminal/listen/build", foreign, 401},
		"an unknown build":           {"/builds/" + other + "/_supervisor/v1/terminal/listen/build", foreign, 404},
		"an unknown build, at root":  {"/_supervisor/v1/status/tasks", foreign, 404},
		"an unknown task":            {"/_supervisor/v1/task/listen/2/output", w.token, 404},
		"an unknown path":            {"/builds/" + build + "/_supervisor/v1/status/ports", w.token, 404},
		"the WebSocket without one":  {"/_supervisor/v1/supervisor.TaskService/ListenToOutput", w.token, 426},
		"a token in the wrong place": {"/_supervisor/v1/status/tasks?token=" + w.token, "", 401},
	} {
		res := w.get(x.path, x.token)
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != x.code {
			t.Errorf("%s: %s, want %d", name, res.Status, x.code)
		}
		if x.token != "" && strings.Contains(string(body), x.token) {
			t.Errorf("%s: the answer shows the token", name)
		}
	}
}

// webCall is one grpc-web call over a WebSocket, in the bytes of its protocol.
type webCall struct {
	t    *testing.T
	ctx  context.Context
	conn *websocket.Conn
}

func (w *world) dial(root, method string) *webCall {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	w.t.Cleanup(cancel)
	conn, res, err := websocket.Dial(ctx, w.url+root+"/_supervisor/v1/"+method, &websocket.DialOptions{
		Subprotocols: []string{"grpc-websockets"}, HTTPHeader: http.Header{"Origin": {"https://gitpod.example.com"}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if res.Body != nil {
		_ = res.Body.Close()
	}
	w.t.Cleanup(func() { _ = conn.CloseNow() })
	return &webCall{w.t, ctx, conn}
}

func (c *webCall) write(b []byte) {
	c.t.Helper()
	if err := c.conn.Write(c.ctx, websocket.MessageBinary, b); err != nil {
		c.t.Fatal(err)
	}
}

// ask sends headers, request and the end of what the client says.
func (c *webCall) ask(token string, request []byte) *webCall {
	c.t.Helper()
	c.write([]byte("content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\nx-gitpod-owner-token: " + token + "\r\n"))
	frame := binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(len(request)))
	c.write(append(frame, request...))
	c.write([]byte{1})
	return c
}

// frame reads one frame: its kind, and what is in it.
func (c *webCall) frame() (byte, string) {
	c.t.Helper()
	_, raw, err := c.conn.Read(c.ctx)
	if err != nil || len(raw) < 5 || int(binary.BigEndian.Uint32(raw[1:])) != len(raw)-5 {
		c.t.Fatalf("frame %q: %v", raw, err)
	}
	return raw[0], string(raw[5:])
}

func (c *webCall) expect(kind byte, content string) {
	c.t.Helper()
	if k, got := c.frame(); k != kind || !strings.Contains(got, content) {
		c.t.Fatalf("frame %#x %q, want %#x with %q", k, got, kind, content)
	}
}

func (c *webCall) closed() {
	c.t.Helper()
	if _, raw, err := c.conn.Read(c.ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		c.t.Errorf("after the trailers: %q, %v", raw, err)
	}
}

// message is one field of a message by its number.
func message(number protowire.Number, value string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), value))
}

const (
	listenMethod = "supervisor.TaskService/ListenToOutput"
	tasksMethod  = "supervisor.StatusService/TasksStatus"
)

func Test_WebSocket_Listen(t *testing.T) {
	for name, root := range roots {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.b.log <- "one\n"
			c := w.dial(root, listenMethod).ask(w.token, []byte(message(1, "build")))
			c.expect(0x80, "content-type: application/grpc-web+proto\r\n")
			c.expect(0, message(1, "one\n"))
			w.b.log <- "two\n"
			c.expect(0, message(1, "two\n"))
			close(w.b.log)
			c.expect(0x80, "grpc-status: 0\r\n")
			c.closed()
		})
	}
}

func Test_WebSocket_Tasks(t *testing.T) {
	task := func(state byte) string {
		inner := message(1, "build")
		if state > 0 {
			inner += string([]byte{2 << 3, state})
		}
		return message(1, inner+message(3, "build"))
	}
	w := newWorld(t)
	observe := []byte{1 << 3, 1}
	w.b.phase <- &imagebuilderv1.Build{Id: build, Phase: builds.Queued}
	c := w.dial("", tasksMethod).ask(w.token, observe)
	c.expect(0x80, "content-type")
	c.expect(0, task(0))
	w.b.phase <- running()
	w.b.phase <- running() // nothing has changed
	w.b.phase <- &imagebuilderv1.Build{Id: build, Phase: builds.Succeeded}
	c.expect(0, task(1))
	c.expect(0, task(2))
	c.expect(0x80, "grpc-status: 0\r\n")
	c.closed()

	w.b.phase <- running() // without observe: the first only
	c = w.dial("", tasksMethod).ask(w.token, nil)
	c.expect(0x80, "content-type")
	c.expect(0, task(1))
	c.expect(0x80, "grpc-status: 0\r\n")
}

func Test_WebSocket_Refusals(t *testing.T) {
	w := newWorld(t)
	foreign, err := w.keys.LogToken("0192d3c4-5e6f-7a8b-9c0d-1e2f3a4b5c6e")
	if err != nil {
		t.Fatal(err)
	}
	c := w.dial("/builds/"+build, listenMethod).ask(foreign, []byte(message(1, "build")))
	c.expect(0x80, "grpc-status: 16\r\n")
	c = w.dial("", listenMethod).ask("nonsense", []byte(message(1, "build")))
	c.expect(0x80, "grpc-status: 16\r\n")
	c = w.dial("", listenMethod).ask(w.token, []byte(message(1, "2")))
	c.expect(0x80, "content-type")
	c.expect(0x80, "grpc-status: 5\r\n")
	c = w.dial("", listenMethod).ask(w.token, []byte{0xff})
	c.expect(0x80, "content-type")
	c.expect(0x80, "grpc-status: 3\r\n")
	c = w.dial("", listenMethod)
	c.write([]byte("x-gitpod-owner-token: " + w.token + "\r\n"))
	c.write([]byte("no frame"))
	c.expect(0x80, "grpc-status: 3\r\n")
}

// Test_WebSocket_Ends: a node that stops says so; a client that goes away ends
// its stream.
func Test_WebSocket_Ends(t *testing.T) {
	w := newWorld(t)
	c := w.dial("", listenMethod).ask(w.token, []byte(message(1, "build")))
	c.expect(0x80, "content-type")
	_ = c.conn.CloseNow()
	select {
	case <-w.b.gone:
	case <-c.ctx.Done():
		t.Fatal("the stream of a client that went away goes on")
	}
	c = w.dial("", listenMethod).ask(w.token, []byte(message(1, "build")))
	c.expect(0x80, "content-type")
	w.stop()
	c.expect(0x80, "grpc-status: 14\r\n")
}

func Test_Info(t *testing.T) {
	got := loginfo.Info("https://ib.example.com/", build, "")
	if got.Url != "https://ib.example.com/builds/"+build || len(got.Headers) > 0 {
		t.Errorf("%v", got)
	}
	if got := loginfo.Info("https://ib.example.com", build, "t"); got.Headers["x-gitpod-owner-token"] != "t" {
		t.Errorf("%v", got)
	}
}

// Test_Post: the same calls as one HTTP request each.
func Test_Post(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	post := func(method, token, kind, request string) *http.Response {
		t.Helper()
		body := string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request)))) + request
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/_supervisor/v1/"+method, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		req.Header.Set("X-Gitpod-Owner-Token", token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return res
	}
	frame := func(res *http.Response) (byte, string) {
		t.Helper()
		head := make([]byte, 5)
		if _, err := io.ReadFull(res.Body, head); err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(res.Body, payload); err != nil {
			t.Fatal(err)
		}
		return head[0], string(payload)
	}
	const web = "application/grpc-web+proto"
	w.b.log <- "one\n"
	res := post(listenMethod, w.token, web, message(1, "build"))
	if kind, got := frame(res); kind != 0 || got != message(1, "one\n") || res.Header.Get("Content-Type") != web {
		t.Fatalf("%#x %q", kind, got)
	}
	w.b.log <- "two\n" // while it is read
	if kind, got := frame(res); kind != 0 || got != message(1, "two\n") {
		t.Fatalf("%#x %q", kind, got)
	}
	close(w.b.log)
	if kind, got := frame(res); kind != 0x80 || !strings.Contains(got, "grpc-status: 0\r\n") {
		t.Fatalf("%#x %q", kind, got)
	}
	if kind, got := frame(post(listenMethod, "nonsense", web, message(1, "build"))); kind != 0x80 || !strings.Contains(got, "grpc-status: 16\r\n") {
		t.Fatalf("%#x %q", kind, got)
	}
	if res := post(listenMethod, w.token, "application/json", ""); res.StatusCode != http.StatusUnsupportedMediaType {
		t.Error(res.Status)
	}
}
