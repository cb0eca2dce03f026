package loginfo_test

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Test_Post makes the calls as one HTTP request each.
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
