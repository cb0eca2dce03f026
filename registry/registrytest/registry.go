package registrytest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Options configure a registry.
type Options struct {
	// Users may log in by basic authentication: password by user. Without users everybody may do
	// everything.
	Users map[string]string
	// Storage is the folder of the images, "" for a new temporary one. Two registries that run one
	// after the other on the same folder act as one registry that restarted.
	Storage string
	// Addr is the address to listen on, "" for a free loopback port.
	Addr string
	// Quiet disables the log. Log and Requests then return nothing.
	Quiet bool
	// Notify is a URL that receives notifications of pushes, with NotifyToken as bearer token; ""
	// for none.
	Notify, NotifyToken string
	// ForeignLayers lets the registry accept manifests of layers that are stored elsewhere.
	ForeignLayers bool
}

// Registry is a running docker-registry.
type Registry struct {
	// Addr is host:port, the host part of references.
	Addr string
	// Users are the users of the options.
	Users map[string]string

	cmd  *exec.Cmd
	done chan struct{}
	log  *logBuffer
}

// Start starts a registry and returns when it responds. The registry permits deletion. It is
// stopped at the end of the test.
func Start(t testing.TB, o Options) *Registry {
	t.Helper()
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Fatalf("these tests need a registry: apt-get install docker-registry: %v", err)
	}
	if o.Storage == "" {
		o.Storage = t.TempDir()
	}
	// Another process may take the free port before the registry listens on it.
	for try := 1; ; try++ {
		r, err := start(t, binary, o)
		if err == nil {
			t.Cleanup(r.Stop)
			return r
		}
		if try == 3 || o.Addr != "" {
			t.Fatalf("start docker-registry: %v", err)
		}
	}
}

func start(t testing.TB, binary string, o Options) (*Registry, error) {
	t.Helper()
	addr := o.Addr
	if addr == "" {
		addr = testkit.FreeAddr(t)
	}
	config := filepath.Join(t.TempDir(), "registry.yml")
	if err := os.WriteFile(config, []byte(configFile(t, o, addr)), 0o600); err != nil {
		t.Fatalf("write the registry's configuration: %v", err)
	}
	r := &Registry{Addr: addr, Users: o.Users, cmd: exec.Command(binary, "serve", config), done: make(chan struct{}), log: &logBuffer{}}
	if !o.Quiet {
		r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	}
	r.cmd.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	dieWithParent(r.cmd)
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(r.done)
		_ = r.cmd.Wait() // ended by a signal
	}()
	if err := r.ready(); err != nil {
		r.Stop()
		return nil, fmt.Errorf("%w; its log:\n%s", err, r.Log())
	}
	return r, nil
}

func configFile(t testing.TB, o Options, addr string) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "version: 0.1\nlog: {level: info, formatter: text, accesslog: {disabled: false}}\n")
	fmt.Fprintf(&b, "storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}, maintenance: {uploadpurging: {enabled: false}}}\n", o.Storage)
	fmt.Fprintf(&b, "http: {addr: %q}\n", addr)
	if o.ForeignLayers {
		fmt.Fprintf(&b, "validation: {manifests: {urls: {allow: ['^https?://']}}}\n")
	}
	if o.Notify != "" {
		fmt.Fprintf(&b, "notifications: {endpoints: [{name: test, url: %q, headers: {Authorization: [\"Bearer %s\"]}, timeout: 5s, threshold: 3, backoff: 100ms}]}\n", o.Notify, o.NotifyToken)
	}
	if len(o.Users) == 0 {
		return b.String()
	}
	var htpasswd bytes.Buffer
	for user, password := range o.Users {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatalf("hash a password: %v", err)
		}
		fmt.Fprintf(&htpasswd, "%s:%s\n", user, hash)
	}
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, htpasswd.Bytes(), 0o600); err != nil {
		t.Fatalf("write the registry's users: %v", err)
	}
	fmt.Fprintf(&b, "auth: {htpasswd: {realm: test, path: %q}}\n", file)
	return b.String()
}

// ready polls until the registry responds.
func (r *Registry) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Addr+"/v2/", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			return nil
		}
		select {
		case <-r.done:
			return fmt.Errorf("docker-registry has ended")
		case <-ctx.Done():
			return fmt.Errorf("docker-registry does not respond: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// Stop kills the registry and waits for its end. It is idempotent.
func (r *Registry) Stop() {
	_ = r.cmd.Process.Kill() // an error means that it has ended
	<-r.done
}

// Signal sends a signal to the registry's process.
func (r *Registry) Signal(sig os.Signal) { _ = r.cmd.Process.Signal(sig) }

// Log returns the output of the registry so far, including the access log.
func (r *Registry) Log() string { return r.log.String() }

// Request is a line of the access log.
type Request struct {
	Method string
	URI    string // path and query
	Status int
}

var accessLine = regexp.MustCompile(`"([A-Z]+) (\S+) HTTP/[0-9.]+" (\d{3}) `)

// Requests returns the requests in the access log. The registry may write a line shortly after its
// response: poll for expected requests, and use a Proxy to show that a request did not happen.
func (r *Registry) Requests() []Request {
	var out []Request
	for _, m := range accessLine.FindAllStringSubmatch(r.Log(), -1) {
		status, _ := strconv.Atoi(m[3]) // the pattern ensures three digits
		out = append(out, Request{Method: m[1], URI: m[2], Status: status})
	}
	return out
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
