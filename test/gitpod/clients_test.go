package gitpod

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

var installClients = sync.OnceValue(func() error {
	lock, err := os.Stat("clients/package-lock.json")
	if err != nil {
		return err
	}
	if done, err := os.Stat("clients/node_modules/.package-lock.json"); err == nil && done.ModTime().After(lock.ModTime()) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci")
	cmd.Dir = "clients"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return nil
})

// nodeClient returns a command that runs one of the clients in Node.js.
func nodeClient(t testing.TB, ctx context.Context, script string, args ...string) *exec.Cmd {
	t.Helper()
	if err := installClients(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "node", append([]string{script}, args...)...)
	cmd.Dir = "clients"
	return cmd
}

// builderResponse is a response of builder.ImageBuilder in the output of grpc.js.
type builderResponse struct {
	Ref     string
	Status  string
	Message string
	BaseRef string `json:"base_ref"`
	Content string
	Info    buildInfo
	Builds  []buildInfo
	// Code and Details are in the last line only.
	Code    *int
	Details string
}

type buildInfo struct {
	BuildID string `json:"build_id"`
	LogInfo *struct {
		URL     string
		Headers map[string]string
	} `json:"log_info"`
}

// grpcJS calls a method with grpc-js and sends the responses to the channel.
func grpcJS(t testing.TB, ctx context.Context, n *harness.Node, method, request string) <-chan builderResponse {
	t.Helper()
	cmd := nodeClient(t, ctx, "grpc.js", n.GRPC, method, request)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var bad bytes.Buffer
	cmd.Stderr = &bad
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	responses := make(chan builderResponse, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(responses)
		for dec := json.NewDecoder(out); ; {
			var r builderResponse
			if dec.Decode(&r) != nil {
				break
			}
			responses <- r
		}
		if err := cmd.Wait(); err != nil && ctx.Err() == nil {
			t.Errorf("grpc.js %s: %v\n%s", method, err, &bad)
		}
	}()
	t.Cleanup(func() { <-done })
	return responses
}

func next(t testing.TB, responses <-chan builderResponse) builderResponse {
	t.Helper()
	r, ok := <-responses
	if !ok {
		t.Fatal("the client has ended without a response")
	}
	return r
}

const dockerfileJSON = `{"triggered_by": "user-1", "source": {"file": {"dockerfile_path": "Dockerfile", "dockerfile_version": "v1",
 "source": {"git": {"remote_uri": "https://git.example.com/app.git", "target_mode": 1, "clone_taget": "%040d"}}}}}`

// follower is a process that reads a log with @improbable-eng/grpc-web.
type follower struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	out bytes.Buffer
	bad bytes.Buffer
}

func (f *follower) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Write(p)
}

func (f *follower) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.String()
}

func follow(t testing.TB, ctx context.Context, transport, url string, headers map[string]string) *follower {
	t.Helper()
	raw, err := json.Marshal(headers)
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{cmd: nodeClient(t, ctx, "logs.js", transport, url, string(raw))}
	f.cmd.Stdout, f.cmd.Stderr = f, &f.bad
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return f
}

// wait waits for the end of the client and returns its exit code.
func (f *follower) wait() int {
	_ = f.cmd.Wait()
	return f.cmd.ProcessState.ExitCode()
}

// Test_LogInfo_NodeClients starts a build and reads its log like Gitpod's server: it starts the
// build with grpc-js, and reads the log with grpc-web at the address in log_info, through a node
// that does not own the build, during the build and after its end.
func Test_LogInfo_NodeClients(t *testing.T) {
	in := newInstall(t)
	release := make(chan struct{})
	in.work = func(_ string, ws *wsmanagertest.Workspace) {
		_, _ = ws.Write([]byte("first\n"))
		in.await(release)
		for i := range 5000 {
			_, _ = fmt.Fprintf(ws, "line %d\n", i)
		}
	}
	c := in.cluster(3, nil)
	ctx := testkit.Context(t, 5*time.Minute)
	responses := grpcJS(t, ctx, c.Nodes[0], "Build", fmt.Sprintf(dockerfileJSON, 1))
	first := next(t, responses)
	info := first.Info.LogInfo
	if first.Status != "running" || first.Ref == "" || first.BaseRef == "" || info == nil || len(info.Headers) != 1 {
		t.Fatalf("the first message is %+v", first)
	}
	if info.URL != in.logs[c.Nodes[0]]+"/builds/"+first.Info.BuildID {
		t.Errorf("log_info points to %q", info.URL)
	}
	id := running(t, c.Nodes[1])
	owner := ownerOf(t, c, c.Nodes[1], id)
	others := c.Others(owner)
	urls := map[string]string{
		"websocket " + in.logs[others[0]] + "/builds/" + id: "the address of log_info, at another node",
		"websocket " + in.logs[others[1]]:                   "the root, which stored addresses of older versions name",
		"http " + in.logs[others[0]]:                        "the transport of Node.js",
	}
	var readers []*follower
	for url := range urls {
		transport, base, _ := strings.Cut(url, " ")
		readers = append(readers, follow(t, ctx, transport, base, info.Headers))
	}
	for _, f := range readers {
		testkit.Eventually(t, time.Minute, "the running log is read", func() bool { return strings.Contains(f.text(), "first\n") })
	}
	listed := next(t, grpcJS(t, ctx, c.Nodes[2], "ListBuilds", "{}"))
	if len(listed.Builds) != 1 || listed.Builds[0].BuildID != id || listed.Builds[0].LogInfo == nil || len(listed.Builds[0].LogInfo.Headers) > 0 {
		t.Errorf("listed: %+v", listed.Builds)
	}
	close(release)
	last := next(t, responses)
	for r := range responses {
		if r.Code == nil {
			last = r
			continue
		}
		if *r.Code != 0 {
			t.Errorf("Build ended with %d: %s", *r.Code, r.Details)
		}
	}
	if last.Status != "done_success" {
		t.Errorf("the build ended with %+v", last)
	}
	want, err := c.Nodes[0].ReadLog(ctx, id, 0)
	if err != nil || !strings.Contains(want, "line 4999\n") {
		t.Fatalf("the log has %d bytes, %v", len(want), err)
	}
	for url, what := range urls { // again, after the end of the build
		transport, base, _ := strings.Cut(url, " ")
		t.Log(what)
		readers = append(readers, follow(t, ctx, transport, base, info.Headers))
	}
	for i, f := range readers {
		if code := f.wait(); code != 0 || f.text() != want {
			t.Errorf("reader %d: exit %d, %d bytes of %d, %s", i, code, len(f.text()), len(want), &f.bad)
		}
	}
	for what, token := range map[string]string{"a changed token": strings.ToUpper(info.Headers["x-gitpod-owner-token"]), "no token": ""} {
		f := follow(t, ctx, "websocket", in.logs[others[0]]+"/builds/"+id, map[string]string{"x-gitpod-owner-token": token})
		if code := f.wait(); code != 16 || f.text() != "" {
			t.Errorf("%s: exit %d, %q", what, code, f.text())
		}
	}
	for _, n := range c.Nodes {
		if strings.Contains(n.Log(), info.Headers["x-gitpod-owner-token"]) {
			t.Errorf("the log of %s contains the token", n.Name)
		}
	}
}
