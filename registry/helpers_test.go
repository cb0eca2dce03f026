package registry_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

var all = registry.Rights{AllowAll: true}

// newClient returns a client that may use loopback and retries quickly.
func newClient(t testing.TB, o registry.Options) *registry.Client {
	t.Helper()
	o.AllowLoopback = true
	if o.RetryBase == 0 {
		o.RetryBase = time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := registry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// dockerConfig writes a docker config file. Each login is host, user, password. path "" means a new
// temporary file.
func dockerConfig(t *testing.T, path string, logins ...[3]string) string {
	t.Helper()
	auths := map[string]any{}
	for _, l := range logins {
		auths[l[0]] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(l[1] + ":" + l[2]))}
	}
	b, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		t.Fatal(err)
	}
	if path == "" {
		path = filepath.Join(t.TempDir(), "config.json")
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantKind(t *testing.T, err error, want registry.Kind) {
	t.Helper()
	if got := registry.KindOf(err); got != want {
		t.Fatalf("error %v of kind %d, want kind %d", err, got, want)
	}
}

// pushed starts a registry with one image.
func pushed(t *testing.T, o registrytest.Options, repoTag string) (reg *registrytest.Registry, digest string) {
	t.Helper()
	reg = registrytest.Start(t, o)
	return reg, reg.Push(t, repoTag, registrytest.RandomImage(t, 2, 4<<10))
}

// syncBuffer is a buffer that is safe for concurrent use.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
