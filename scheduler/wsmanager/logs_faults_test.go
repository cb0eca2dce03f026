package wsmanager_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

func Test_Logs_OfNobody(t *testing.T) {
	e := newEnv(t, func(o *wsmanager.Options) { o.DrainTimeout = time.Hour })
	e.m.Access(nil) // neither address nor token
	r := e.begin(dockerfileWorkload())
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
	if !strings.Contains(r.sink.text(), "could not be read: ws-manager did not report the address") {
		t.Errorf("log %q", r.sink.text())
	}
}

func Test_Logs_TheTokenComesLater(t *testing.T) {
	e := newEnv(t)
	url, token := e.sup.Access(buildID)
	e.m.Access(nil)
	r, ws := e.logging()
	_, _ = ws.Write([]byte("output\n"))
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) { s.Spec.Url = url })
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) { s.Auth.OwnerToken = token })
	r.sink.await(t, e.ctx, "output\n")
	e.finish(r, ws)
	if ws.Refused() != 0 {
		t.Errorf("%d requests had a wrong token", ws.Refused())
	}
}

// Test_Logs_OfASupervisorThatLies uses a supervisor that is not trusted, because it runs beside the
// build of a user. Its responses may damage nothing but the log.
func Test_Logs_OfASupervisorThatLies(t *testing.T) {
	for name, body := range map[string][]byte{
		"no JSON":        []byte("<html>"),
		"an error":       []byte(`{"error":{"code":5,"message":"token-of-x"}}`),
		"null":           []byte(`null`),
		"no base64":      []byte(`{"result":{"data":"%%%"}}`),
		"another type":   []byte(`{"result":[1,2]}`),
		"nothing":        nil,
		"a huge value":   append([]byte(`{"result":{"data":"`), bytes.Repeat([]byte("A"), 9<<20)...),
		"a huge number":  append([]byte(`{"x":`), bytes.Repeat([]byte("1"), 9<<20)...),
		"deep nesting":   bytes.Repeat([]byte("["), 1<<20),
		"half a message": []byte(`{"result":{"data":"AAAA`),
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			ws := e.sup.Workspace(buildID)
			if body == nil {
				body = []byte{}
			}
			ws.Raw(body)
			r, _ := e.logging()
			ws.AwaitListens(e.ctx, 2)
			e.img.push(ref, baseRef)
			e.stopped()
			r.succeeds(built("base-images"))
			if strings.Contains(r.sink.text(), "token-of") {
				t.Errorf("log %q", r.sink.text())
			}
		})
	}
}

// Test_Logs_RedirectsAreNotFollowed checks that the owner token is not sent to another host.
func Test_Logs_RedirectsAreNotFollowed(t *testing.T) {
	e := newEnv(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	asked := make(chan struct{}, 100)
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		select {
		case asked <- struct{}{}:
		default:
		}
	}))
	defer evil.Close()
	e.m.Access(func(string) (string, string) { return evil.URL + "/?q=secret-query", "token" })
	r := e.begin(dockerfileWorkload())
	<-asked
	<-asked
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
	if got := r.sink.text(); !strings.Contains(got, "302") || strings.Contains(got, "secret") {
		t.Errorf("log %q", got)
	}
}

// Test_Logs_OfASupervisorThatHangs checks that the end of the build does not wait for the
// supervisor.
func Test_Logs_OfASupervisorThatHangs(t *testing.T) {
	e := newEnv(t, func(o *wsmanager.Options) { o.DrainTimeout = 10 * time.Millisecond })
	r, ws := e.logging()
	_, _ = ws.Write([]byte("output\n"))
	r.sink.await(t, e.ctx, "output\n")
	e.img.push(ref, baseRef)
	e.stopped() // the task never closes, the stream stays open
	r.succeeds(built("base-images"))
	if got := r.sink.text(); got != "output\n<image-builder: the end of the output may be missing>" {
		t.Errorf("log %q", got)
	}
}

// Test_Logs_TheSinkRefuses checks that the build continues: the sink itself informs the owner.
func Test_Logs_TheSinkRefuses(t *testing.T) {
	e := newEnv(t)
	s := newSink()
	s.err = errors.New("disk full")
	e.m.AwaitSubscription(e.ctx)
	r := e.runOn(e.rt, dockerfileWorkload(), s)
	e.m.AwaitWorkspace(e.ctx, buildID)
	ws := e.sup.Workspace(buildID)
	ws.Open()
	_, _ = ws.Write([]byte("output\n"))
	ws.AwaitListens(e.ctx, 1)
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
}

// Test_Logs_MoreThanOneValueMayHold checks that only the size of each value is limited.
func Test_Logs_MoreThanOneValueMayHold(t *testing.T) {
	e := newEnv(t)
	r, ws := e.logging()
	ws.AwaitListener(e.ctx)
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	for i := range 26 {
		_, _ = ws.Write(chunk)
		r.sink.until(t, e.ctx, func() bool { return r.sink.offset == int64(i+1)*int64(len(chunk)) })
	}
	e.finish(r, ws)
	if n := ws.Listens(); n > 3 {
		t.Errorf("listened %d times", n)
	}
}

// Test_Logs_ErrorsShowNoURL checks that errors contain no URL, because it may hold a token.
func Test_Logs_ErrorsShowNoURL(t *testing.T) {
	e := newEnv(t)
	for _, url := range []string{"http://127.0.0.1:1/secret", "://secret", "http://secret\x7f"} {
		e.m.Forget(buildID)
		e.m.Access(func(string) (string, string) { return url, "secret" })
		s := newSink()
		r := e.runOn(e.rt, dockerfileWorkload(), s)
		e.m.AwaitWorkspace(e.ctx, buildID)
		e.img.push(ref, baseRef)
		e.m.AwaitSubscription(e.ctx)
		e.stopped()
		r.succeeds(built("base-images"))
		if got := s.text(); !strings.Contains(got, "could not be read") || strings.Contains(got, "secret") {
			t.Errorf("log %q", got)
		}
	}
}
