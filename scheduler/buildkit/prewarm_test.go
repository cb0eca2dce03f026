package buildkit_test

import (
	"context"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

// layered creates a busybox image with a number of layers that no other image has.
func layered(t *testing.T, layers int) v1.Image {
	t.Helper()
	img := registrytest.BusyboxImage(t, busyboxCommands...)
	for range layers {
		l, err := random.Layer(64<<10, types.DockerLayer)
		if err == nil {
			img, err = mutate.AppendLayers(img, l)
		}
		if err != nil {
			t.Fatalf("make an image: %v", err)
		}
	}
	return img
}

// fetches matches requests for a layer of the image.
func fetches(t *testing.T, img v1.Image) registrytest.Matcher {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var digests []string
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d.String())
	}
	return registrytest.Method(http.MethodGet, func(r *http.Request) bool {
		return slices.Contains(digests, r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	})
}

func anonymous(context.Context, string, string) (user, password string, err error) {
	return "", "", nil
}

// Test_Warmer_NextBuildPullsNothing checks that after Pull a build from the reference needs no
// blobs of the registry, but a build from another reference does.
func Test_Warmer_NextBuildPullsNothing(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, startDaemon(t))
	proxy := registrytest.NewProxy(t, r.reg)
	cold, warm := layered(t, 5), layered(t, 5)
	r.reg.Push(t, "team/cold:1", cold)
	digest := r.reg.Push(t, "team/warm:1", warm)
	from := func(image string) map[string]string {
		return map[string]string{"Dockerfile": "FROM " + proxy.Addr + "/team/" + image + "\nRUN echo made > /made\n"}
	}
	r.mustRun(t, r.upload(t, from("cold:1")))
	if n := proxy.Count(fetches(t, cold)); n < 5 {
		t.Fatalf("the build from an image that the daemon does not have fetched %d layers", n)
	}

	if err := r.Warmers(anonymous)[0].Pull(t.Context(), proxy.Addr+"/team/warm:1", digest); err != nil {
		t.Fatal(err)
	}
	if n := proxy.Count(fetches(t, warm)); n < 5 {
		t.Fatalf("Pull fetched %d layers", n)
	}
	proxy.Fail(registrytest.Blobs, -1, http.StatusServiceUnavailable)
	before := proxy.Count(registrytest.Blobs)
	out, _ := r.mustRun(t, r.upload(t, from("warm:1")))
	r.mustRun(t, r.upload(t, from("warm:1@"+digest)))
	if n := proxy.Count(registrytest.Blobs) - before; n != 0 {
		t.Errorf("the builds asked for %d blobs", n)
	}
	if got := read(t, r.reg.Pull(t, "bases@"+out.Digest), "made"); got != "made\n" {
		t.Errorf("the image holds %q", got)
	}
	if err := r.Warmers(anonymous)[0].Pull(t.Context(), proxy.Addr+"/team/warm:1", digest); err != nil {
		t.Errorf("pull an image that is cached: %v", err)
	}
	if n := proxy.Count(registrytest.Blobs) - before; n != 0 {
		t.Errorf("Pull of a cached image requested %d blobs", n)
	}
}

// Test_Warmer_LeavesConnectionsToBuilds checks that layers are pulled one at a time, and that a
// pull appears neither among the workloads nor in the history of the daemon.
func Test_Warmer_LeavesConnectionsToBuilds(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	r := newRigOn(t, d)
	proxy := registrytest.NewProxy(t, r.reg)
	img := layered(t, 8)
	digest := r.reg.Push(t, "team/app:1", img)
	var mu sync.Mutex
	var now, most int
	var workloads []string
	proxy.On(fetches(t, img), -1, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		names, err := r.List(req.Context())
		if err != nil {
			t.Errorf("list the workloads: %v", err)
		}
		next.ServeHTTP(w, req)
		mu.Lock()
		defer mu.Unlock()
		workloads = append(workloads, names...)
		now--
	})
	if err := r.Warmers(anonymous)[0].Pull(t.Context(), proxy.Addr+"/team/app:1", digest); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if most != 1 {
		t.Errorf("%d layers were fetched at a time", most)
	}
	if len(workloads) > 0 {
		t.Errorf("it shows as workloads %q", workloads)
	}
	if refs := history(t, d.Addr()); len(refs) > 0 {
		t.Errorf("it is in the daemon's history: %q", refs)
	}
}

// Test_Warmer_UsesTheInstallsCredential checks that the daemon gets the credential by host and
// repository, only for the time of the pull, and does not keep it. An image in the cache gives no
// request the right to use it.
func Test_Warmer_UsesTheInstallsCredential(t *testing.T) {
	t.Parallel()
	const password = "wonder-land-7"
	root := t.TempDir()
	d, err := buildkit.StartDaemon(t.Context(), buildkit.DaemonOptions{Binary: buildkitd(t), Root: root, Logger: discard()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Stop(context.Background()) }) // the second call
	private := registrytest.Start(t, registrytest.Options{Users: map[string]string{"alice": password}})
	r := newRigOn(t, d)
	img := layered(t, 3)
	ref := private.Addr + "/team/base:1"
	to, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, img, remote.WithAuth(&authn.Basic{Username: "alice", Password: password})); err != nil {
		t.Fatal(err)
	}
	digest := registrytest.Digest(t, img)

	if err := r.Warmers(anonymous)[0].Pull(t.Context(), ref, digest); err == nil {
		t.Fatal("a private image was pulled without a credential")
	}
	wrong := r.Warmers(func(context.Context, string, string) (string, string, error) { return "alice", "guess-work-8", nil })
	if err := wrong[0].Pull(t.Context(), ref, digest); err == nil || strings.Contains(err.Error(), "guess-work-8") {
		t.Fatalf("with a wrong credential: %v", err)
	}
	var mu sync.Mutex
	var asked []string
	right := r.Warmers(func(_ context.Context, host, repository string) (string, string, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, host+"/"+repository)
		return "alice", password, nil
	})
	if err := right[0].Pull(t.Context(), ref, digest); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if asked = slices.Compact(asked); len(asked) != 1 || asked[0] != private.Addr+"/team/base" {
		t.Errorf("the daemon asked for %q", asked)
	}

	from := map[string]string{"Dockerfile": "FROM " + ref + "\nRUN echo > /made\n"}
	r.mustFail(t, r.upload(t, from), user, "no right to use the base image")
	r.mustFail(t, r.upload(t, map[string]string{"Dockerfile": "FROM " + private.Addr + "/team/base@" + digest + "\n"}), user, "no right to use the base image")
	w := r.upload(t, from)
	w.Rights = &buildsv1.Rights{Additional: map[string]*imagebuilderv1.BasicAuth{private.Addr: {Username: "alice", Password: password}}}
	before := len(private.Requests())
	r.mustRun(t, w)
	for _, req := range private.Requests()[before:] {
		if req.Method == http.MethodGet && strings.Contains(req.URI, "/blobs/") {
			t.Errorf("the build asked for a blob: %s", req.URI)
		}
	}

	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if strings.Contains(string(raw), password) {
			t.Errorf("%s holds the password", path)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func Test_Warmer_Images(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.Warmers(anonymous)[0]
	none, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	for what, digest := range map[string]string{
		"an index":               r.reg.Push(t, "team/app:1", registrytest.Index(t, "linux/arm64", "linux/amd64")),
		"an image without layer": r.reg.Push(t, "team/app:2", none),
	} {
		if err := w.Pull(t.Context(), r.reg.Addr+"/team/app:1", digest); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, digest := range map[string]string{
		"an index without the platform": r.reg.Push(t, "team/app:3", registrytest.Index(t, "linux/s390x")),
		"what is not there":             "sha256:" + strings.Repeat("0", 64),
	} {
		if err := w.Pull(t.Context(), r.reg.Addr+"/team/app:3", digest); err == nil {
			t.Errorf("%s was pulled", what)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
}

// Test_Warmer_GivesUp checks that neither a hanging registry nor a hanging daemon blocks Pull
// beyond its timeout, and that layers that were pulled before are not pulled again.
func Test_Warmer_GivesUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy := registrytest.NewProxy(t, r.reg)
	img := layered(t, 3)
	digest := r.reg.Push(t, "team/app:1", img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	last, err := layers[len(layers)-1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	reached := make(chan struct{}, 10)
	proxy.On(func(req *http.Request) bool { return strings.HasSuffix(req.URL.Path, last.String()) }, -1, func(_ http.ResponseWriter, req *http.Request, _ http.Handler) {
		reached <- struct{}{}
		<-req.Context().Done()
	})
	w := r.Warmers(anonymous)[0]
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Pull(ctx, proxy.Addr+"/team/app:1", digest) }()
	select {
	case <-reached:
	case err := <-ended:
		t.Fatalf("Pull did not get to the last layer: %v", err)
	}
	cancel()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a pull that was given up succeeded")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Pull goes on after its context")
	}
	proxy.Heal()
	before := proxy.Count(fetches(t, img))
	if err := w.Pull(t.Context(), proxy.Addr+"/team/app:1", digest); err != nil {
		t.Fatal(err)
	}
	if n := proxy.Count(fetches(t, img)) - before; n != 1 {
		t.Errorf("the second try fetched %d layers, want the last", n)
	}
}

// Test_Warmer_DaemonThatEnds checks that Cache distinguishes an unreachable daemon, one with
// another disk, and one that has kept its disk.
func Test_Warmer_DaemonThatEnds(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	start := func(root string) *buildkit.Daemon {
		d, err := buildkit.StartDaemon(t.Context(), buildkit.DaemonOptions{Binary: buildkitd(t), Root: root, Logger: discard()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Stop(context.Background()) }) // may be the second call
		return d
	}
	cacheOf := func(d *buildkit.Daemon) (string, error) {
		t.Helper()
		r := newRigOn(t, d)
		return r.Warmers(anonymous)[0].Cache(t.Context())
	}
	first := start(root)
	one, err := cacheOf(first)
	if err != nil || one == "" {
		t.Fatalf("%q, %v", one, err)
	}
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if away, err := cacheOf(first); err == nil {
		t.Errorf("a daemon that ended has the cache %q", away)
	}
	if again, err := cacheOf(start(root)); err != nil || again != one {
		t.Errorf("after a start: %q, %v, want %q", again, err, one)
	}
	if other, err := cacheOf(start(t.TempDir())); err != nil || other == one {
		t.Errorf("another daemon: %q, %v", other, err)
	}
}

func Test_Warmer_Shared(t *testing.T) {
	for url, want := range map[string]bool{
		"unix:///run/buildkit/buildkitd.sock": false, "tcp://127.0.0.1:1234": false, "tcp://localhost:1234": false, "tcp://buildkit-0.buildkit:1234": true,
	} {
		o := buildkit.Options{
			Daemons: []buildkit.Address{{URL: url, TLS: &buildkit.TLS{}}}, Registry: registryClient{}, HTTP: &http.Client{}, TempDir: t.TempDir(), Log: discard(),
			Credentials: func(context.Context, string, *buildsv1.Rights, bool) (string, string, error) { return "", "", nil },
		}
		r, err := buildkit.New(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Warmers(anonymous)[0].Shared(); got != want {
			t.Errorf("%s: shared is %v", url, got)
		}
		_ = r.Close()
	}
}
