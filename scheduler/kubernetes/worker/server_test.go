package worker

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

func newTestServer(t *testing.T) (*server, *report, func(method, path, token string) (int, string)) {
	t.Helper()
	r := newReport(t.Context(), newSpool(t, 0))
	s := newServer("token", r)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, r, func(method, path, token string) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, h.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
}

// Test_Server_Token checks that clients without the token get nothing.
func Test_Server_Token(t *testing.T) {
	_, r, ask := newTestServer(t)
	_, _ = r.Write([]byte("secret"))
	r.end(podapi.Result{Digest: "sha256:aa"})
	for _, path := range []string{podapi.PathOutput + "?offset=0", podapi.PathState + "?after=0", "/"} {
		for _, token := range []string{"", "tokem", "tokenx"} {
			if status, body := ask("GET", path, token); status != http.StatusUnauthorized || body == "secret" {
				t.Errorf("GET %s with %q: %d %s", path, token, status, body)
			}
		}
	}
}

// Test_Server_Life sends the requests of an owner.
func Test_Server_Life(t *testing.T) {
	s, r, ask := newTestServer(t)
	_, _ = r.Write([]byte("0123456789"))
	r.Running()
	r.Steps([]*imagebuilderv1.Step{{Name: "RUN make"}})
	if status, _ := ask("POST", podapi.PathAck+"?offset=10&final=true", "token"); status != http.StatusNoContent {
		t.Errorf("ack: %d", status)
	}
	select {
	case <-s.final:
		t.Error("the worker believes that its result is known before it has one")
	default:
	}
	r.end(podapi.Result{Digest: "sha256:aa"})
	for path, want := range map[string]int{
		"?offset=0": 200, "?offset=3": 200, "?offset=10": 200, "?offset=11": 416, "?offset=-1": 410, "?offset=x": 400, "": 400,
	} {
		status, body := ask("GET", podapi.PathOutput+path, "token")
		if status != want {
			t.Errorf("GET %s: %d, want %d", path, status, want)
		}
		if path == "?offset=3" && body != "3456789" {
			t.Errorf("from 3: %q", body)
		}
	}
	_, body := ask("GET", podapi.PathState+"?after=0", "token")
	var st podapi.State
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatal(err)
	}
	if !st.Running || len(st.Steps) != 1 || st.Length != 10 || st.Result == nil || st.Result.Digest != "sha256:aa" {
		t.Errorf("state: %s", body)
	}
	if status, _ := ask("POST", podapi.PathAck+"?offset=11", "token"); status != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("ack of output that does not exist: %d", status)
	}
	for range 2 {
		if status, _ := ask("POST", podapi.PathAck+"?offset=10&final=true", "token"); status != http.StatusNoContent {
			t.Errorf("final ack: %d", status)
		}
	}
	<-s.final
}
