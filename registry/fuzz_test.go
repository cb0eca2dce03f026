package registry_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
)

// FuzzResponses sends generated responses to the client, with the client's credentials in place of
// every $. No error may contain a credential.
func FuzzResponses(f *testing.F) {
	type response struct {
		status                              int
		challenge, location, kind, body, at string
	}
	var now atomic.Pointer[response]
	basic := base64.StdEncoding.EncodeToString([]byte("user:" + matrixPassword))
	spill := func(s string) string {
		return strings.ReplaceAll(s, "$", strings.Join([]string{matrixPassword, basic, "issued-token-1"}, " "))
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := now.Load()
		if !strings.Contains(r.URL.Path, c.at) {
			if r.URL.Path == "/token" {
				_, _ = io.WriteString(w, `{"token":"issued-token-1"}`)
			} else if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, r.Host))
				w.WriteHeader(http.StatusUnauthorized)
			}
			return
		}
		for name, v := range map[string]string{"WWW-Authenticate": c.challenge, "Location": c.location, "Content-Type": c.kind, "Docker-Content-Digest": c.body} {
			if v != "" {
				w.Header().Set(name, strings.Map(printable, spill(v)))
			}
		}
		w.WriteHeader(c.status)
		_, _ = io.WriteString(w, spill(c.body))
	}))
	f.Cleanup(server.Close)
	host := server.Listener.Addr().String()
	config := filepath.Join(f.TempDir(), "config.json")
	if err := os.WriteFile(config, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, basic), 0o600); err != nil {
		f.Fatal(err)
	}
	for _, at := range []string{"/manifests/", "/token", "/v2/"} {
		f.Add(401, `Basic realm="$"`, "", "", "$", at)
		f.Add(401, "$", "", "", "", at)
		f.Add(401, `Bearer realm="http://$@`+host+`/token?$"`, "", "", "", at)
		f.Add(307, "", "http://user:$@"+host+"/$?token=$", "", "", at)
		f.Add(307, "", "ftp://$/", "", "", at)
		f.Add(200, "", "", "application/json", `{"$":"$","errors":[{"code":"$","message":"$"}]}`, at)
		f.Add(200, "", "", "$", `{"mediaType":"$"}`, at)
		f.Add(403, "", "", "application/json", `{"errors":[{"code":"DENIED","message":"$","detail":"$"}]}`, at)
		f.Add(500, "", "", "text/html", "$", at)
		f.Add(429, "", "", "", "$", at)
	}
	f.Fuzz(func(t *testing.T, status int, challenge, location, kind, body, at string) {
		if status < 200 || status > 599 || status == 304 || status == 204 {
			t.Skip()
		}
		now.Store(&response{status, challenge, location, kind, body, at})
		c, err := registry.New(registry.Options{
			DockerConfigFile: config, AllowLoopback: true, Retries: -1, Timeout: 2 * time.Second,
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_, err = c.Resolve(t.Context(), host+"/a:1", "", all)
		e := c.Explain(t.Context(), host+"/a:1", "", all)
		_, headErr := c.Head(t.Context(), host+"/a:1", all)
		text := fmt.Sprintf("%v %v %v %+v %+v", err, e.Err, headErr, e, c.Doctor(t.Context(), host, all))
		for _, secret := range []string{matrixPassword, basic, "issued-token"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q is shown in %s", secret, text)
			}
		}
	})
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return -1
	}
	return r
}
