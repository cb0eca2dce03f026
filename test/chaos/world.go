//go:build faults

package chaos

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/disks"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/netns"
	"github.com/image-builder-ha/image-builder/verify"
)

// diskSize is the size of each disk of a node, in bytes.
const diskSize = 2 << 30

// world is a cluster with its hosts, its registry and its BuildKit daemon.
type world struct {
	t testing.TB
	*harness.Cluster
	net  *netns.Net
	reg  *registrytest.Registry
	gate *gate
	// kit is nil if the profile has no Dockerfiles.
	kit *kit
	// raftDisks hold the replicated logs of the nodes, logDisks the logs of builds.
	raftDisks, logDisks map[*harness.Node]*disks.Disk
	// drained are the nodes that heal has to undrain.
	drained []*harness.Node
	looker  verify.DockerLooker
	// instant and images are references of base images for builds.
	instant, images []string
}

// newWorld starts each node on its own host, and BuildKit if the profile has Dockerfiles. A killed
// node loses the log bytes that it has not synced, as in a power loss of its host.
func newWorld(t testing.TB, nodes int, profile string) *world {
	t.Helper()
	w := &world{t: t, net: netns.New(t, nodes), reg: registrytest.Start(t, registrytest.Options{Quiet: true}), raftDisks: map[*harness.Node]*disks.Disk{}, logDisks: map[*harness.Node]*disks.Disk{}}
	w.gate = newGate(t, w.net.Gateway, w.reg)
	w.looker = verify.DockerLooker{Insecure: []string{w.gate.addr}}
	conf := harness.Config{
		"registry": map[string]any{"insecureHosts": []string{w.gate.addr}, "allowHosts": []string{w.gate.addr}},
		"log":      map[string]any{"level": "info"},
		// Here the infrastructure fails more often in a minute than elsewhere in a year.
		"builds": map[string]any{"uncountedAttempts": 100},
		// All logs are read again after the load, even those of the first minutes.
		"history": map[string]any{"total": 1_000_000, "perRequester": 1_000_000},
	}
	if profile == verify.ProfileMixed || profile == verify.ProfileDockerfile {
		w.kit = newKit(t, w.gate.addr)
		conf["buildkit"] = map[string]any{"addresses": []string{w.kit.d.Addr()}}
	}
	var hosts []harness.Host
	for _, h := range w.net.Hosts {
		hosts = append(hosts, harness.Host{IP: h.IP, Command: h.Command(), Dial: h.Dial})
	}
	t.Setenv("IMAGE_BUILDER_TEST_POWER_LOSS", "1")
	w.Cluster = harness.NewClusterOn(t, hosts, w.gate.addr, conf)
	for _, n := range w.Nodes {
		data := filepath.Join(n.Dir, "data")
		w.raftDisks[n] = disks.NewAt(t, diskSize, data)
		w.logDisks[n] = disks.NewAt(t, diskSize, filepath.Join(data, "logs"))
		n.Launch()
	}
	for _, n := range w.Nodes {
		n.AwaitReady()
	}
	var err error
	if w.instant, err = w.looker.Prepare(t.Context(), w.gate.addr+"/library/verify", 60, 1, 1024); err != nil {
		t.Fatal(err)
	}
	if w.images, err = w.looker.Prepare(t.Context(), w.gate.addr+"/library/verify", 40, 4, 64<<10); err != nil {
		t.Fatal(err)
	}
	return w
}

// options returns the options of the load.
func (w *world) options(d time.Duration, rate float64, profile string) verify.Options {
	o := verify.Options{
		Duration: d, Rate: rate, Profile: profile, Readers: 2, Cancel: 8, Looker: w.looker, Patience: 2 * time.Minute,
		Instant: w.instant, Images: w.images,
		Auth: &imagebuilderv1.RegistryAuth{AllowBaseRepository: true}, Faults: &verify.Faults{},
	}
	for _, n := range w.Nodes {
		o.Servers = append(o.Servers, n.GRPC)
	}
	return o
}

// victims returns the nodes in the order of the step.
func (w *world) victims(s Step) []*harness.Node {
	var out []*harness.Node
	for _, i := range s.Order {
		out = append(out, w.Nodes[i])
	}
	if !s.Leader {
		return out
	}
	for _, n := range out {
		if res, err := n.Members(w.t.Context(), true); err == nil && res.Leader != "" {
			at := slices.IndexFunc(out, func(x *harness.Node) bool { return x.Name == res.Leader })
			out[0], out[at] = out[at], out[0]
			return out
		}
	}
	return out
}

func (w *world) host(n *harness.Node) *netns.Host {
	return w.net.Hosts[slices.Index(w.Nodes, n)]
}

func (w *world) hosts(nodes []*harness.Node) (out []*netns.Host) {
	for _, n := range nodes {
		out = append(out, w.host(n))
	}
	return out
}

// follow runs the steps of a schedule until ctx ends, and heals all faults.
func (w *world) follow(ctx context.Context, s Schedule, faults *verify.Faults) {
	for i, st := range s.Steps {
		if !wait(ctx, st.After) {
			break
		}
		victims := w.victims(st)
		w.t.Logf("step %d: %s: %s", i, st, victims[0].Name)
		end := faults.Begin(st.Fault)
		nemeses[st.Fault](ctx, w, victims, st)
		w.heal()
		end()
	}
	w.heal()
}

// heal ends all faults, starts the nodes that do not run, and waits until all nodes are live.
func (w *world) heal() {
	w.net.Heal()
	w.reg.Signal(syscall.SIGCONT)
	w.gate.heal()
	for _, n := range w.Nodes {
		w.raftDisks[n].Thaw()
		w.logDisks[n].Thaw()
		w.logDisks[n].Release()
	}
	for _, n := range w.Nodes {
		if n.Alive() {
			n.Signal(syscall.SIGCONT)
			n.Hurt(map[string]any{})
			continue
		}
		n.Launch()
	}
	for _, n := range w.Nodes {
		n.AwaitAnswer()
	}
	for _, n := range w.drained {
		ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute) // on a busy machine
		if err := w.drain(ctx, w.Nodes[0], n, false); err != nil {
			w.t.Errorf("undrain %s: %v", n.Name, err)
		}
		cancel()
	}
	w.drained = nil
}

// drain drains a node, or ends that, by a call to another one.
func (w *world) drain(ctx context.Context, by, n *harness.Node, drained bool) error {
	conn := by.OperatorConn()
	defer conn.Close()
	_, err := harness.Persist(ctx, func(ctx context.Context) (*imagebuilderv1.DrainNodeResponse, error) {
		return imagebuilderv1.NewClusterClient(conn).DrainNode(ctx, &imagebuilderv1.DrainNodeRequest{Node: n.Name, Undrain: !drained})
	})
	return err
}

// tear makes the next write of a node to its replicated log partial: part thousandths of it reach
// the disk, and the process exits. It may exit before it responds to this request.
func (w *world) tear(ctx context.Context, n *harness.Node, part int) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.Pprof+"/faults", strings.NewReader(fmt.Sprintf(`{"disk_torn":%d}`, part)))
	if err != nil {
		w.t.Error(err)
		return
	}
	tr := &http.Transport{DialContext: w.host(n).Dial, DisableKeepAlives: true}
	if res, err := tr.RoundTrip(req); err == nil {
		_ = res.Body.Close()
	}
}

// keep writes a file into the folder of results, $CHAOS_OUT or a folder below the temporary one,
// and returns its path.
func keep(t testing.TB, name string, write func(f *os.File) error) string {
	t.Helper()
	dir := os.Getenv("CHAOS_OUT")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "image-builder-chaos")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := write(f); err != nil {
		t.Fatal(err)
	}
	return path
}

// wait waits for d. It returns false if ctx ends before.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
