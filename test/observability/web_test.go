package observability

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Web sends the requests of the web page. The page itself is tested by tools/webtest.
func Test_Web(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	refs := harness.PushImages(t, reg, 1)
	addr, other := testkit.FreeAddr(t), "http://other.example.com:8090"
	n := harness.Start(t, reg.Addr, harness.Config{"http": map[string]any{"address": addr, "nodes": []string{"http://" + addr, other}}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{Requester: "r", Source: harness.RefSource(refs[0]), Force: true})
	if err != nil {
		t.Fatal(err)
	}
	id := res.Build.Id
	n.Wait(t, ctx, id)
	want, err := n.ReadLog(ctx, id, 1)
	if err != nil {
		t.Fatal(err)
	}

	ask := func(method, path string, header http.Header) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(body)
	}
	build := "/ui/api/builds/" + id
	for _, c := range []struct {
		path string
		code int
		body string
	}{
		{"/", http.StatusFound, ""},
		{"/ui/", http.StatusOK, "<title>image-builder</title>"},
		{"/ui/page.js", http.StatusOK, "hashchange"},
		{"/ui/server.go", http.StatusNotFound, ""},
		{"/ui/..%2fserver.go", http.StatusNotFound, ""},
		{"/ui/api/config", http.StatusOK, other},
		{"/ui/api/builds", http.StatusOK, id},
		{"/ui/api/builds?phase=PHASE_SUCCEEDED&size=1", http.StatusOK, id},
		{"/ui/api/builds?phase=PHASE_QUEUED", http.StatusOK, `"read"`},
		{"/ui/api/builds?phase=queued", http.StatusBadRequest, "there is no phase"},
		{"/ui/api/builds?size=-1", http.StatusBadRequest, "not a number"},
		{build, http.StatusOK, "PHASE_SUCCEEDED"},
		{"/ui/api/builds/nobody", http.StatusNotFound, "NOT_FOUND"},
		{"/ui/api/nodes", http.StatusOK, `"leader":true`},
		{"/ui/api/cache", http.StatusOK, `"defaultInterval"`},
		{build + "/logs?attempt=0", http.StatusBadRequest, "from 1"},
		{build + "/log.txt?attempt=x", http.StatusBadRequest, "not a number"},
		{"/ui/api/builds/%22%0d%0aX/log.txt?attempt=1", http.StatusNotFound, "NOT_FOUND"},
	} {
		res, body := ask(http.MethodGet, c.path, nil)
		if res.StatusCode != c.code || !strings.Contains(strings.ReplaceAll(body, `": `, `":`), c.body) {
			t.Errorf("%s: %s, %.300s", c.path, res.Status, body)
		}
		policy := res.Header.Get("Content-Security-Policy")
		if c.path != "/" && (!strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || res.Header.Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("%s: policy %q, %v", c.path, policy, res.Header)
		}
	}

	if res, body := ask(http.MethodGet, build+"/log.txt?attempt=1", nil); body != want || !strings.Contains(res.Header.Get("Content-Disposition"), id+"-1.log") {
		t.Errorf("the file is %q (%v), the log %q", body, res.Header, want)
	}
	for offset, path := range map[int]string{0: "/logs?attempt=1", 7: "/logs?attempt=1&offset=7"} {
		_, body := ask(http.MethodGet, build+path, nil)
		var log []byte
		end := false
		for lines := bufio.NewScanner(strings.NewReader(body)); lines.Scan(); {
			var m struct {
				Result struct {
					Offset  string
					Content []byte
					Marker  bool
				}
				End bool
			}
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				t.Fatalf("%s: %v", lines.Bytes(), err)
			}
			if !m.Result.Marker {
				log = append(log, m.Result.Content...)
			}
			end = m.End
		}
		if string(log) != want[offset:] || !end {
			t.Errorf("the stream from %d is %q (end %t), want %q", offset, log, end, want[offset:])
		}
	}

	// Pages of other sites have no access, pages of other nodes have full access.
	if res, _ := ask(http.MethodGet, build, http.Header{"Origin": {"https://evil.example.com"}}); res.StatusCode != http.StatusForbidden || res.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another site: %s, %v", res.Status, res.Header)
	}
	if res, _ := ask(http.MethodGet, build, http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"no-cors"}}); res.StatusCode != http.StatusForbidden {
		t.Errorf("another site, without an origin: %s", res.Status)
	}
	if res, _ := ask(http.MethodGet, build, http.Header{"Origin": {other}}); res.StatusCode != http.StatusOK || res.Header.Get("Access-Control-Allow-Origin") != other {
		t.Errorf("another node: %s, %v", res.Status, res.Header)
	}
	if res, _ := ask(http.MethodPost, build, nil); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", res.Status)
	}
	first, _ := ask(http.MethodGet, "/ui/page.js", nil)
	if again, _ := ask(http.MethodGet, "/ui/page.js", http.Header{"If-None-Match": {first.Header.Get("ETag")}}); again.StatusCode != http.StatusNotModified {
		t.Errorf("a file that is known: %s", again.Status)
	}
}
