package transcript

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

var (
	update  = flag.Bool("update", false, "write texts.golden and strings.golden; with -program write wire.golden")
	program = flag.String("program", "", "play against this binary instead of the one of this tree")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	harness.RemoveBinary()
	os.Exit(code)
}

// Test_Transcript plays all calls against one node and compares the results with the golden files.
func Test_Transcript(t *testing.T) {
	slow := playSlow(t)
	w := newWorld(t, 2)
	w.playDescriptors()
	w.playNative()
	w.playGitpod()
	slow(w.r)
	w.playHTTP()
	w.playCLI()
	w.playOperator()
	w.playNotifications()
	w.playMetrics()
	w.playDeploy()
	if t.Failed() {
		return // the record is not whole
	}
	if *program == "" {
		golden(t, "texts.golden", w.r.texts.String(), *update)
	}
	golden(t, "wire.golden", w.r.wire.String(), *update && *program != "")
}

// Names of hosts in the play. All but git.example.com are one registry.
const (
	install  = "registry.example.com" // of the install's repositories
	upstream = "upstream.example.com" // of base images; its blobs can be held back
	refusing = "refusing.example.com" // wants a login
	broken   = "broken.example.com"   // fails
	busy     = "busy.example.com"     // has no time
	public   = "http://builds.example.com"
)

// world is one node and its surroundings.
type world struct {
	t   *testing.T
	ctx context.Context
	r   *transcript
	n   *harness.Node

	reg   *registrytest.Registry
	proxy *registrytest.Proxy
	m     *wsmanagertest.Manager
	sup   *wsmanagertest.Supervisors
	http  string // address of the page and of logs
	notes string // token of registry notifications
	logs  string // id of the build whose log is read
	info  *builder.LogInfo

	mu    sync.Mutex
	work  workspace // of build workspaces that start from now on
	lives sync.WaitGroup
}

// newWorld starts a node whose builds have so many attempts.
func newWorld(t *testing.T, attempts int) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	w := &world{
		t: t, ctx: ctx, reg: registrytest.Start(t, registrytest.Options{Quiet: true}),
		m: wsmanagertest.NewManager(t, nil), sup: wsmanagertest.NewSupervisors(t), http: testkit.FreeAddr(t), notes: "token-of-notifications",
	}
	w.proxy = registrytest.NewProxy(t, w.reg)
	w.m.Access(w.sup.Access)
	w.m.OnStart(w.startWorkspace)
	t.Cleanup(w.lives.Wait)
	w.pushImages()

	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	w.n = harness.New(t, dir, install, harness.Config{
		"orchestrator": map[string]any{"wsman": map[string]any{"address": w.m.Address()}, "builderImage": install + "/bob:1", "pullSecret": "pull"},
		"http":         map[string]any{"address": w.http, "publicURL": public, "nodes": []string{public}, "ui": "on"},
		"registry":     map[string]any{"insecureHosts": []string{install, upstream, refusing, broken, busy}, "timeout": "2s"},
		"refCache":     map[string]any{"notifyTokenFile": file("notify.token", w.notes)},
		"builds":       map[string]any{"attempts": attempts, "retryBackoff": "10ms", "queueTotal": 2},
		"buildkit":     map[string]any{"maxContextBytes": 1 << 16},
		"sealing":      map[string]any{"keyFile": file("keys.json", `[{"id": "key-1", "key": "`+strings.Repeat("A", 43)+`="}]`)},
	})
	w.n.Program = *program
	w.n.Env = w.env()
	w.r = newTranscript(t, map[string]string{
		w.n.GRPC: "GRPC", w.n.Metrics: "METRICS", w.n.Health: "HEALTH", w.n.Pprof: "PPROF", w.http: "HTTP", w.n.Dir: "DIR",
		w.m.Address(): "WSMANAGER", w.proxy.Addr: "PROXY", w.reg.Addr: "REGISTRY",
	})
	w.n.Run()
	testkit.Eventually(t, time.Minute, "the feature level is raised", func() bool {
		res, err := w.n.Members(ctx, false)
		return err == nil && len(res.Members) == 1 && res.FeatureLevel == res.Members[0].FeatureLevel
	})
	return w
}

// env makes all registry hosts reachable through the proxy.
func (w *world) env() []string {
	return []string{
		"HTTP_PROXY=http://" + w.proxy.Addr, "HTTPS_PROXY=", "https_proxy=", "NO_PROXY=", "no_proxy=",
		"USER=alice", "GORACE=atexit_sleep_ms=0",
	}
}

// image makes an image with the same bytes in each run. The layers are not compressed: the output
// of compress/gzip may differ between versions of Go.
func image(t testing.TB, arch string, layers ...string) v1.Image {
	t.Helper()
	img := empty.Image
	var err error
	for _, content := range layers {
		if img, err = mutate.AppendLayers(img, static.NewLayer([]byte(content), types.OCIUncompressedLayer)); err != nil {
			t.Fatal(err)
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// pushImages fills the registry. Images that are held back or fail have layers of their own, which
// the workspace repository does not have yet.
func (w *world) pushImages() {
	w.reg.Push(w.t, "team/app:1", image(w.t, "amd64", "layer one", "layer two"))
	for _, name := range []string{"app:2", "app:3", "held-a:1", "held-b:1", "held-c:1", "late:1", "corrupt:1", "queued:1", "queued:2", "queued:3", "gitpod:1", "watched:1", "published:1", "cli:1", "cli-detached:1"} {
		w.reg.Push(w.t, "team/"+name, image(w.t, "amd64", "layer of "+name))
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image(w.t, arch, "layer for "+arch), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	w.reg.Push(w.t, "team/multi:1", index)
}

// build returns the build as the node knows it now.
func (w *world) build(id string) *imagebuilderv1.Build {
	w.t.Helper()
	res, err := w.n.Native.BuildStatus(w.ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Build
}

// awaitPhase waits until a build is in the phase, or has ended.
func (w *world) awaitPhase(id string, phase imagebuilderv1.Phase) {
	w.t.Helper()
	if _, err := w.n.Native.BuildStatus(w.ctx, &imagebuilderv1.BuildStatusRequest{
		Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}, WaitFor: phase,
	}); err != nil {
		w.t.Fatal(err)
	}
}

// awaitSealed waits until a build has ended and its logs cannot change any more.
func (w *world) awaitSealed(id string) *imagebuilderv1.Build {
	w.t.Helper()
	w.awaitPhase(id, imagebuilderv1.Phase_PHASE_SUCCEEDED)
	var b *imagebuilderv1.Build
	testkit.Eventually(w.t, 20*time.Second, "the logs of build "+id+" are sealed", func() bool {
		b = w.build(id)
		for _, a := range b.Attempts {
			if a.Log.GetState() != imagebuilderv1.LogState_LOG_STATE_SEALED {
				return false
			}
		}
		return true
	})
	return b
}

// cancel takes the request of one requester back.
func (w *world) cancel(id, requester string) {
	w.t.Helper()
	if _, err := w.n.Native.CancelBuild(w.ctx, &imagebuilderv1.CancelBuildRequest{Id: id, Requester: requester}); err != nil {
		w.t.Fatal(err)
	}
}

// current returns the course of workspaces that start now.
func (w *world) current() workspace {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.work
}

// socket connects to the operators' socket.
func (w *world) socket() *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(w.n.Dir, "op.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// sum is the digest of a content.
func sum(content string) string {
	h := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(h[:])
}

// settle waits until the logs of all builds are sealed, so that lists do not change.
func (w *world) settle() {
	w.t.Helper()
	res, err := w.n.Native.ListBuilds(w.ctx, &imagebuilderv1.ListBuildsRequest{PageSize: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, b := range res.Builds {
		w.awaitSealed(b.Id)
	}
}
