package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Passwords of requests to registries, and the token that registries issue for them.
const (
	installPassword = "install-horse-battery-staple"
	requestPassword = "request-kettle-pencil-marble"
	issuedToken     = "issued-lantern-copper-violet"
)

// leakyRegistry is a registry whose responses contain the credentials of the request and the
// passwords themselves, wherever a response has room for them. The first part of the repository
// selects the place. The registry counts the credentials by kind.
type leakyRegistry struct {
	mu   sync.Mutex
	seen map[string]int // by kind of credential
}

func (s *leakyRegistry) presented(r *http.Request) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, password, _ := r.BasicAuth()
	switch header := r.Header.Get("Authorization"); {
	case password == installPassword:
		s.seen["install"]++
	case password == requestPassword:
		s.seen["request"]++
	case strings.HasSuffix(header, issuedToken):
		s.seen["token"]++
	}
	return strings.Join([]string{r.Header.Get("Authorization"), installPassword, requestPassword, issuedToken}, " ")
}

func (s *leakyRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	spill := s.presented(r)
	escaped := strings.ReplaceAll(spill, " ", "%20")
	how, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
	body := func(status int, kind, text string) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Docker-Content-Digest", spill)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text) // the client may be gone
	}
	diagnosis := fmt.Sprintf(`{"errors":[{"code":"DENIED","message":%q,"detail":%q},{"code":%q}]}`, spill, spill, spill)
	switch {
	case r.URL.Path == "/token":
		body(http.StatusOK, "application/json", `{"token":"`+issuedToken+`","`+spill+`":1}`)
	case r.Header.Get("Authorization") == "":
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service=%q`, r.Host, spill))
		body(http.StatusUnauthorized, "application/json", diagnosis)
	case r.URL.Path == "/v2/":
		body(http.StatusOK, "application/json", "{}")
	case how == "unauthorized":
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Basic realm=%q`, spill))
		body(http.StatusUnauthorized, "application/json", diagnosis)
	case how == "forbidden":
		body(http.StatusForbidden, "application/json", diagnosis)
	case how == "failing":
		body(http.StatusInternalServerError, "text/html", "<html>"+spill)
	case how == "limiting":
		w.Header().Set("Retry-After", spill)
		w.Header().Set("RateLimit-Limit", spill)
		body(http.StatusTooManyRequests, "text/plain", spill)
	case how == "redirecting":
		w.Header().Set("Location", "http://user:"+requestPassword+"@"+r.Host+"/v2/failing/manifests/1?token="+escaped)
		body(http.StatusTemporaryRedirect, "text/plain", spill)
	case how == "leading-astray":
		w.Header().Set("Location", "http://gone.invalid/"+escaped+"?token="+escaped)
		body(http.StatusTemporaryRedirect, "text/plain", spill)
	case how == "nonsense":
		body(http.StatusOK, spill, spill)
	case how == "strange":
		body(http.StatusOK, "application/vnd.oci.image.index.v1+json", fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":%q,"digest":%q,"platform":{"os":%q,"architecture":%q}}]}`, spill, spill, spill, spill))
	default: // the response ends early
		w.Header().Set("Content-Length", "1000000")
		_, _ = io.WriteString(w, spill)
		panic(http.ErrAbortHandler)
	}
}

// Test_RegistryCredentials_ShowNowhere uses credentials of the install and of requests, for which
// registries issue tokens. Responses of the registries contain the credentials in every place. The
// test searches all that a node stores, logs and returns for them.
func Test_RegistryCredentials_ShowNowhere(t *testing.T) {
	handler := &leakyRegistry{seen: map[string]int{}}
	evil := registrytest.NewHandlerProxy(t, handler)
	other := registrytest.NewHandlerProxy(t, handler)
	mine := registrytest.Start(t, registrytest.Options{Users: map[string]string{"install": installPassword}})
	mine.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	auth := func(user, password string) string {
		return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	}
	entry := map[string]string{"auth": auth("install", installPassword)}
	file, err := json.Marshal(map[string]any{"auths": map[string]any{evil.Addr: entry, mine.Addr: entry}})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config.json") // not in the node's folder, which is searched
	if err := os.WriteFile(config, file, 0o600); err != nil {
		t.Fatal(err)
	}
	n := harness.Start(t, mine.Addr, harness.Config{
		"orchestrator": map[string]any{"pullSecretFile": config},
		"registry":     map[string]any{"timeout": "3s"},
		"refCache":     map[string]any{"interval": "1s", "refs": []string{mine.Addr + "/team/app:1", evil.Addr + "/failing/app:1", evil.Addr + "/redirecting/app:1"}},
	})
	ctx := testkit.Context(t, 5*time.Minute)
	var shown bytes.Buffer
	see := func(v any, err error) { fmt.Fprintf(&shown, "%v %+v\n", v, err) }

	requests := []*builder.BuildRegistryAuth{
		{Mode: &builder.BuildRegistryAuth_Total{Total: &builder.BuildRegistryAuthTotal{AllowAll: true}}},
		{Additional: map[string]string{evil.Addr: auth("request", requestPassword), other.Addr: auth("request", requestPassword)}},
	}
	failed := 0
	for _, how := range []string{"unauthorized", "forbidden", "failing", "limiting", "redirecting", "leading-astray", "nonsense", "strange", "breaking"} {
		for i, host := range []string{evil.Addr, other.Addr} {
			ref := host + "/" + how + "/app:1"
			res, err := n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: ref, Auth: requests[i]})
			see(res, err)
			if err != nil {
				failed++
			}
			see(n.BuildGitpod(ctx, &builder.BuildRequest{Source: harness.GitpodRef(ref), Auth: requests[i]}))
			if how == "failing" || how == "redirecting" {
				out, errOut, _ := harness.CLI(t, n.Socket(), "resolve", "--explain", ref, "--config", filepath.Join(n.Dir, "config.json"))
				shown.WriteString(out + errOut)
			}
		}
	}
	if failed != 18 {
		t.Errorf("%d of 18 look-ups failed", failed)
	}
	all, err := n.BuildGitpod(ctx, &builder.BuildRequest{Source: harness.GitpodRef(mine.Addr + "/team/app:1"), Auth: requests[0]})
	see(all, err)
	if err != nil || all[len(all)-1].Status != builder.BuildStatus_done_success {
		t.Errorf("a build with the install's credential: %v %v", all, err)
	}
	see(n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
		Source: harness.RefSource(other.Addr + "/failing/app:1"),
		Auth:   &imagebuilderv1.RegistryAuth{Additional: map[string]*imagebuilderv1.BasicAuth{other.Addr: {Username: "request", Password: requestPassword}}},
	}))
	testkit.Eventually(t, time.Minute, "refreshes of the cache have failed and are reported", func() bool {
		res, err := n.Native.ListCachedRefs(ctx, &imagebuilderv1.ListCachedRefsRequest{})
		errs := 0
		for _, r := range res.GetRefs() {
			if r.LastError != "" {
				errs++
			}
		}
		if errs == 2 {
			see(res, err)
		}
		return errs == 2
	})
	builds, err := n.Native.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{})
	see(builds, err)
	for _, b := range builds.GetBuilds() {
		see(n.Wait(t, ctx, b.Id), nil)
		see(n.ReadLog(ctx, b.Id, 0))
	}
	see(n.Gitpod.ListBuilds(ctx, &builder.ListBuildsRequest{}))
	for _, args := range [][]string{{"cache", "list"}, {"cache", "list", "-o", "json"}, {"list"}, {"cluster", "members"}, {"doctor", "registry", evil.Addr, "--config", filepath.Join(n.Dir, "config.json")}} {
		out, errOut, _ := harness.CLI(t, n.Socket(), args...)
		shown.WriteString(out + errOut)
	}
	backup := filepath.Join(n.Dir, "backup.ib")
	if out, errOut, status := harness.CLI(t, n.Socket(), "snapshot", "save", backup); status != 0 {
		t.Errorf("%s%s", out, errOut)
	}
	metrics, _ := n.Get("http://" + n.Metrics + "/metrics")
	health, _ := n.Get("http://" + n.Health + "/ready")
	shown.WriteString(metrics + health)
	if st := n.Stop(); st.ExitCode() != 0 {
		t.Error(st)
	}
	shown.WriteString(n.Log())
	handler.mu.Lock()
	for _, kind := range []string{"install", "request", "token"} {
		if handler.seen[kind] == 0 {
			t.Errorf("no registry was presented a credential of the kind %q: nothing is proved of it", kind)
		}
	}
	handler.mu.Unlock()
	if shown.Len() < 20_000 || len(builds.GetBuilds()) == 0 {
		t.Errorf("only %d bytes and %d builds were looked at", shown.Len(), len(builds.GetBuilds()))
	}
	for _, secret := range []string{installPassword, requestPassword, issuedToken, auth("install", installPassword), auth("request", requestPassword)} {
		testkit.NoSecret(t, "what was answered, logged and counted", shown.Bytes(), secret)
		testkit.NoSecretBelow(t, n.Dir, secret)
	}
}

// Test_RegistryNotifications checks that a reference is refreshed at once when a real registry
// reports a push, and that only the registry can report one.
func Test_RegistryNotifications(t *testing.T) {
	const token = "token-of-the-registry-4711"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := testkit.FreeAddr(t)
	url := "http://" + address + "/v1/registry/notifications"
	regAddr := testkit.FreeAddr(t)
	n := harness.Start(t, regAddr, harness.Config{
		"http":     map[string]any{"address": address},
		"refCache": map[string]any{"interval": "24h", "refs": []string{regAddr + "/team/app:1", regAddr + "/team/app:2"}, "notifyTokenFile": file},
	})
	// The registry starts after the node: an event that it cannot deliver would delay the others.
	reg := registrytest.Start(t, registrytest.Options{Addr: regAddr, Notify: url, NotifyToken: token})
	defer func() {
		if t.Failed() {
			t.Log(reg.Log())
		}
	}()
	pushed := map[string]string{}
	for _, tag := range []string{"1", "2"} {
		pushed[tag] = reg.Push(t, "team/app:"+tag, registrytest.RandomImage(t, 1, 1<<10))
	}
	ctx := testkit.Context(t, 3*time.Minute)
	cached := func() map[string]*imagebuilderv1.CachedRef {
		res, err := n.Native.ListCachedRefs(ctx, &imagebuilderv1.ListCachedRefsRequest{})
		if err != nil {
			return nil
		}
		out := map[string]*imagebuilderv1.CachedRef{}
		for _, r := range res.Refs {
			out[r.Ref[strings.LastIndex(r.Ref, ":")+1:]] = r
		}
		return out
	}
	testkit.Eventually(t, time.Minute, "both are resolved", func() bool {
		c := cached()
		return c["1"].GetDigest() == pushed["1"] && c["2"].GetDigest() == pushed["2"]
	})
	began := time.Now()
	again := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 2, 1<<10))
	testkit.Eventually(t, time.Minute, "the push is seen", func() bool { return cached()["1"].GetDigest() == again })
	t.Logf("seen after %s", time.Since(began).Round(time.Millisecond))
	if got := cached()["2"].GetDigest(); got != pushed["2"] {
		t.Errorf("the other reference became %s", got)
	}
	told := func() int { return strings.Count(n.Log(), "a registry reports pushed references") }
	event := `{"events":[{"action":"push","target":{"repository":"team/app","tag":"2"}}]}`
	for name, c := range map[string]struct {
		token, body string
		want        int
	}{
		"no token":        {"", event, http.StatusUnauthorized},
		"another token":   {"Bearer " + token + "x", event, http.StatusUnauthorized},
		"without Bearer":  {token, event, http.StatusUnauthorized},
		"no JSON":         {"Bearer " + token, "<events>", http.StatusBadRequest},
		"too large":       {"Bearer " + token, strings.Repeat(" ", 4<<20+1), http.StatusRequestEntityTooLarge},
		"no events":       {"Bearer " + token, "{}", http.StatusOK},
		"of other things": {"Bearer " + token, `{"events":[{"action":"pull","target":{"repository":"team/app","tag":"2"}},{"action":"push","target":{"repository":"team/app"}}]}`, http.StatusOK},
	} {
		before := told()
		if got := notify(ctx, t, url, c.token, c.body); got != c.want {
			t.Errorf("%s: status %d, want %d", name, got, c.want)
		}
		if told() != before {
			t.Errorf("%s: the reference is refreshed", name)
		}
	}
	before, count := cached()["2"].GetTriedAt().AsTime(), told()
	if got := notify(ctx, t, url, "Bearer "+token, event); got != http.StatusOK || told() != count+1 {
		t.Errorf("status %d, reported %d times", got, told()-count)
	}
	testkit.Eventually(t, time.Minute, "the pushed reference is refreshed", func() bool { return cached()["2"].GetTriedAt().AsTime().After(before) })
}

func notify(ctx context.Context, t *testing.T, url, authorization, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode
}
