// Package gitpod tests the service as a part of a Gitpod install, with a fake workspace manager and
// the client libraries of Gitpod.
package gitpod

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(bareResponses); file != "" {
		serveBare(file)
		return
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // parallel tests mostly wait
	code := m.Run()
	harness.RemoveBinary()
	os.Exit(code)
}

// install is the environment of the service: a registry, a workspace manager, and the processes in
// build workspaces.
type install struct {
	t   testing.TB
	reg *registrytest.Registry
	m   *wsmanagertest.Manager
	sup *wsmanagertest.Supervisors
	img v1.Image

	// work, if not nil, runs in a build workspace before it pushes.
	work func(id string, terminal *wsmanagertest.Workspace)
	// finish, if not nil, ends a build workspace after its work. By default it pushes its images
	// and stops.
	finish func(req *wsman.StartWorkspaceRequest)
	// logs are the URLs of the log ports of the nodes.
	logs map[*harness.Node]string
	// atOnce ends workspaces before StartWorkspace returns.
	atOnce bool

	mu     sync.Mutex
	starts map[string]int // by ref
	lives  sync.WaitGroup
}

func newInstall(t testing.TB) *install {
	t.Helper()
	return newInstallWith(t, wsmanagertest.NewManager(t, nil))
}

func newInstallWith(t testing.TB, m *wsmanagertest.Manager) *install {
	t.Helper()
	in := &install{
		t: t, reg: registrytest.Start(t, registrytest.Options{Quiet: true}), m: m, sup: wsmanagertest.NewSupervisors(t),
		img: registrytest.RandomImage(t, 1, 1024), starts: map[string]int{}, logs: map[*harness.Node]string{},
	}
	in.m.Access(in.sup.Access)
	for _, repo := range []string{"workspace-images", "base-images"} {
		in.reg.Push(t, repo+":first", in.img)
	}
	in.m.OnStart(func(_ context.Context, req *wsman.StartWorkspaceRequest) error {
		in.mu.Lock()
		in.starts[req.GetMetadata().GetAnnotations()["ref"]]++
		in.mu.Unlock()
		if in.atOnce {
			in.live(req)
			return nil
		}
		in.lives.Go(func() { in.live(req) })
		return nil
	})
	t.Cleanup(in.lives.Wait)
	return in
}

// live simulates a build workspace from its start to its end.
func (in *install) live(req *wsman.StartWorkspaceRequest) {
	id, notes := req.GetId(), req.GetMetadata().GetAnnotations()
	if !in.atOnce {
		in.m.Phase(id, wsman.WorkspacePhase_CREATING)
		in.m.Phase(id, wsman.WorkspacePhase_RUNNING)
	}
	ws := in.sup.Workspace(id)
	ws.Open()
	_, _ = fmt.Fprintf(ws, "building %s\n", id)
	if in.work != nil {
		in.work(id, ws)
	}
	if in.t.Context().Err() != nil {
		return // the test is over
	}
	if in.finish != nil {
		ws.Close()
		in.finish(req)
		return
	}
	if !in.push(notes["ref"]) || !strings.Contains(notes["baseref"], "@") && !in.push(notes["baseref"]) {
		return
	}
	_, _ = fmt.Fprintf(ws, "pushed\n")
	ws.Close()
	in.m.Phase(id, wsman.WorkspacePhase_STOPPING)
	in.m.Phase(id, wsman.WorkspacePhase_STOPPED)
}

// await waits until c delivers a value or is closed, or the test ends.
func (in *install) await(c <-chan struct{}) {
	select {
	case <-c:
	case <-in.t.Context().Done():
	}
}

func (in *install) push(ref string) bool {
	r, err := name.ParseReference(ref, name.Insecure)
	if err == nil {
		err = remote.Put(r, in.img) // the registry has its blobs already
	}
	if err != nil {
		in.t.Errorf("push %s: %v", ref, err)
	}
	return err == nil
}

// config returns the configuration of nodes in the install.
func (in *install) config(over harness.Config) harness.Config {
	c := harness.Config{
		"orchestrator": map[string]any{
			"wsman": map[string]any{"address": in.m.Address()}, "builderImage": "registry.example.com/bob:1", "pullSecret": "pull",
		},
		"log": map[string]any{"level": "info"},
	}
	for k, v := range over {
		c[k] = v
	}
	return c
}

// node starts a single node.
func (in *install) node(over harness.Config) *harness.Node {
	in.t.Helper()
	n := harness.New(in.t, in.t.TempDir(), in.reg.Addr, in.config(over))
	in.logPort(n)
	n.Run()
	return n
}

// logPort configures the port for log clients.
func (in *install) logPort(n *harness.Node) {
	addr := testkit.FreeAddr(in.t)
	in.logs[n] = "http://" + addr
	n.Override(harness.Config{"http": map[string]any{"address": addr, "publicURL": "http://" + addr}})
}

func (in *install) cluster(nodes int, over harness.Config) *harness.Cluster {
	in.t.Helper()
	c := harness.NewCluster(in.t, nodes, in.reg.Addr, in.config(over))
	for _, n := range c.Nodes {
		in.logPort(n)
		n.Launch()
	}
	for _, n := range c.Nodes {
		n.AwaitReady()
	}
	testkit.Eventually(in.t, 30*time.Second, "all nodes vote and the feature level is raised", func() bool {
		res, err := c.Nodes[0].Members(in.t.Context(), false)
		return err == nil && res.FeatureLevel >= 2 && int(res.FailureTolerance) == (nodes-1)/2
	})
	return c
}

// dockerfile returns a request for a Dockerfile build. Its repository does not exist, because the
// fake workspace manager needs none.
func dockerfile(n int) *builder.BuildRequest {
	return &builder.BuildRequest{
		Source: &builder.BuildSource{From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{
			Source: &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{Git: &contentservice.GitInitializer{
				RemoteUri: "https://git.example.com/app.git", TargetMode: contentservice.CloneTargetMode_REMOTE_COMMIT, CloneTaget: fmt.Sprintf("%040d", n),
			}}},
			DockerfileVersion: "v1", DockerfilePath: ".gitpod/Dockerfile", ContextPath: ".gitpod",
		}}},
		TriggeredBy: "user-1", SupervisorRef: "registry.example.com/supervisor:7",
	}
}

// total returns the number of started workspaces, and the highest number for one image.
func (in *install) total() (n, most int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, k := range in.starts {
		n += k
		most = max(most, k)
	}
	return n, most
}

// success returns an error unless the messages of a Build stream are those of a successful build.
func success(all []*builder.BuildResponse, err error) error {
	switch {
	case err != nil:
		return err
	case len(all) < 2 || all[0].Status != builder.BuildStatus_running || all[0].Ref == "" || all[0].BaseRef == "" || all[0].GetInfo().GetBuildId() == "":
		return fmt.Errorf("the first of %d messages is not a complete message of a running build: %v", len(all), all)
	case all[len(all)-1].Status != builder.BuildStatus_done_success:
		return fmt.Errorf("ended with %s: %s", all[len(all)-1].Status, all[len(all)-1].Message)
	}
	return nil
}

// first calls Build, returns the first message and ends the call.
func first(t testing.TB, c builder.ImageBuilderClient, req *builder.BuildRequest) *builder.BuildResponse {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := c.Build(ctx, req)
	if err != nil {
		t.Error(err)
		return nil
	}
	m, err := stream.Recv()
	if err != nil {
		t.Error(err)
	}
	return m
}

// rate lets concurrent clients call f n times in total, and returns the calls per second.
func rate(clients, n int, f func(i int)) float64 {
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range clients {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(began).Seconds()
}

// instantRegistry replaces the registry of the install by an empty one that responds at once.
func instantRegistry(t testing.TB, in *install) {
	in.reg = &registrytest.Registry{Addr: registrytest.NewHandlerProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !registrytest.Pings(r) {
			http.NotFound(w, r)
		}
	})).Addr}
}

// sum returns the sum of a metric over all nodes.
func sum(t testing.TB, c *harness.Cluster, name string) (total float64) {
	t.Helper()
	for _, n := range c.Running() {
		body, _ := n.Get("http://" + n.Metrics + "/metrics")
		total += metric(t, body, name)
	}
	return total
}

// metric returns the value of a metric in the output of a node, or 0 if it is absent.
func metric(t testing.TB, body, name string) (x float64) {
	t.Helper()
	for _, line := range strings.Split(body, "\n") {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(v, &x); err != nil {
				t.Fatal(err)
			}
		}
	}
	return x
}
