package loginfo_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

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
				w.b.log <- "two\xff\n" // a log need not be text
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

// Test_JSON_ABrokenLogIsNoEnd checks that a log that ends with an error does not look complete.
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
	foreign := newToken(t, w.tokens, other)
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
			t.Errorf("%s: the response contains the token", name)
		}
	}
}
