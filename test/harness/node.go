// Package harness runs nodes as real processes for tests: it compiles the service, gives each node
// a data directory and ports on loopback, kills nodes, and calls them.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Node is a node of a test: its data and its current process.
type Node struct {
	t   testing.TB
	Dir string // of the configuration, the log and the data directory
	// Addresses.
	GRPC, Metrics, Health, Pprof, Peer string
	Name                               string
	// Program is the binary of the service, "" for the binary of this version.
	Program string
	// Env is added to the environment of the process, as NAME=value.
	Env []string
	// Existing is a configuration file over which the node's own configuration is merged, "" for
	// none.
	Existing string
	// Native and Gitpod are clients that survive restarts.
	Native imagebuilderv1.ImageBuilderClient
	Gitpod builder.ImageBuilderClient
	Conn   *grpc.ClientConn

	config map[string]any
	before []string // words before the command, which run it on another host
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	cmd    *exec.Cmd
	done   chan struct{}
	log    *os.File
}

// Config is merged over the configuration of a node, key by key. The value nil removes a key.
type Config map[string]any

// New prepares a node without starting it. Its configuration, its log and its data directory,
// dir/data, are in dir.
func New(t testing.TB, dir, registryAddr string, over Config) *Node {
	t.Helper()
	return newNode(t, &Node{t: t, Dir: dir, GRPC: testkit.FreeAddr(t), Metrics: testkit.FreeAddr(t), Health: testkit.FreeAddr(t), Pprof: testkit.FreeAddr(t)}, registryAddr, over)
}

// fastReconnect makes clients reconnect to a restarted node at once.
var fastReconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond},
	MinConnectTimeout: time.Second,
}

func newNode(t testing.TB, n *Node, registryAddr string, over Config) *Node {
	t.Helper()
	dir := n.Dir
	n.config = map[string]any{
		"name": "n1", "dataDir": filepath.Join(dir, "data"),
		"metricsAddress": n.Metrics, "healthAddress": n.Health, "pprofAddress": n.Pprof,
		"operatorSocket": filepath.Join(dir, "op.sock"),
		"server":         map[string]any{"services": map[string]any{"grpc": map[string]any{"address": n.GRPC}}},
		"orchestrator": map[string]any{
			"baseImageRepository":      registryAddr + "/base-images",
			"workspaceImageRepository": registryAddr + "/workspace-images",
		},
		"registry": map[string]any{"allowLoopback": true},
		"log":      map[string]any{"level": "debug"},
		"ready":    map[string]any{"after": "0s"},
		"shutdown": map[string]any{"drain": "0s"},
	}
	merge(n.config, over)
	log, err := os.OpenFile(filepath.Join(dir, "node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	n.log = log
	n.Conn, err = grpc.NewClient(n.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithConnectParams(fastReconnect))
	if err != nil {
		t.Fatal(err)
	}
	n.Native, n.Gitpod = imagebuilderv1.NewImageBuilderClient(n.Conn), builder.NewImageBuilderClient(n.Conn)
	t.Cleanup(func() {
		n.Kill()
		_ = n.Conn.Close()
		_ = n.log.Close()
		if t.Failed() {
			t.Logf("the end of the node's log:\n%s", tail(n.Log(), 40))
			if dir := os.Getenv("NODE_LOGS"); dir != "" { // keeps the logs of nodes of failed tests
				_ = os.MkdirAll(dir, 0o755)
				_ = os.WriteFile(filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-")+"-"+filepath.Base(n.Dir)+".log"), []byte(n.Log()), 0o600)
			}
		}
	})
	return n
}

func merge(into map[string]any, over map[string]any) {
	for k, v := range over {
		if v == nil {
			delete(into, k)
			continue
		}
		if m, ok := v.(map[string]any); ok {
			if old, ok := into[k].(map[string]any); ok {
				merge(old, m)
				continue
			}
		}
		into[k] = v
	}
}

func clone(m map[string]any) map[string]any {
	out := maps.Clone(m)
	for k, v := range out {
		if inner, ok := v.(map[string]any); ok {
			out[k] = clone(inner)
		}
	}
	return out
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Override changes the configuration of one node, from its next start on.
func (n *Node) Override(over Config) { merge(n.config, clone(over)) }

// Launch starts the process and does not wait until it is ready.
func (n *Node) Launch() {
	n.t.Helper()
	raw, err := json.Marshal(n.config)
	if err != nil {
		n.t.Fatal(err)
	}
	conf := filepath.Join(n.Dir, "config.json")
	if err := os.WriteFile(conf, raw, 0o600); err != nil {
		n.t.Fatal(err)
	}
	program := n.Program
	if program == "" {
		program = Binary(n.t)
	}
	args := append(append([]string(nil), n.before...), program, "run")
	if n.Existing != "" {
		args = append(args, "--config", n.Existing)
	}
	args = append(args, "--config", conf)
	n.cmd = exec.Command(args[0], args[1:]...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.cmd.Env = append(os.Environ(), n.Env...)
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(n.cmd, n.done)
}

// Kill ends the process by SIGKILL and waits for it.
func (n *Node) Kill() { n.end(syscall.SIGKILL) }

// Stop ends the process by SIGTERM, waits for its end and returns its state.
func (n *Node) Stop() *os.ProcessState {
	n.end(syscall.SIGTERM)
	return n.cmd.ProcessState
}

func (n *Node) end(sig syscall.Signal) {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(sig)
	select {
	case <-n.done:
	case <-time.After(60 * time.Second):
		n.t.Errorf("the node did not end within a minute of %s; the SIGQUIT that follows writes the stacks of its goroutines to its log", sig)
		_ = n.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-n.done:
		case <-time.After(5 * time.Second):
			_ = n.cmd.Process.Kill()
			<-n.done
		}
	}
}

// Exited returns a channel that is closed when the process has ended.
func (n *Node) Exited() <-chan struct{} { return n.done }

// ExitCode returns the exit status of the ended process.
func (n *Node) ExitCode() int { return n.cmd.ProcessState.ExitCode() }

// Pid returns the process id.
func (n *Node) Pid() int { return n.cmd.Process.Pid }

// Alive reports whether the process of the node runs.
func (n *Node) Alive() bool {
	if n.cmd == nil || n.done == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Kill9 sends SIGKILL and does not wait.
func (n *Node) Kill9() { _ = n.cmd.Process.Kill() }

// AwaitExit waits until the process has ended.
func (n *Node) AwaitExit() { <-n.done }

// Signal sends a signal to the process of the node.
func (n *Node) Signal(sig os.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(sig); err != nil {
		n.t.Fatal(err)
	}
}

// Log returns the log of the node. It contains the logs of all its processes.
func (n *Node) Log() string {
	raw, err := os.ReadFile(n.log.Name())
	if err != nil {
		n.t.Fatal(err)
	}
	return string(raw)
}

// Get fetches a URL. It returns the body and the status code. The code is 0 if there was no
// response.
func (n *Node) Get(url string) (string, int) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0
	}
	defer res.Body.Close()
	var b bytes.Buffer
	_, _ = io.Copy(&b, res.Body)
	return b.String(), res.StatusCode
}
