//go:build faults

package chaos

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/netns"
	"github.com/image-builder-ha/image-builder/verify"
)

// world is a cluster, its hosts, and its registry.
type world struct {
	t testing.TB
	*harness.Cluster
	net *netns.Net
	reg *registrytest.Registry
	// storage is the registry's folder.
	storage string
	looker  verify.DockerLooker
}

// newWorld starts nodes on hosts of their own. What a killed node has not
// synced of its logs is lost, as if its host had lost its power.
func newWorld(t testing.TB, nodes int) *world {
	t.Helper()
	w := &world{t: t, net: netns.New(t, nodes), storage: t.TempDir()}
	l, err := net.Listen("tcp", w.net.Gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	w.reg = registrytest.Start(t, registrytest.Options{Addr: addr, Storage: w.storage, Quiet: true})
	w.looker = verify.DockerLooker{Insecure: []string{addr}}
	var hosts []harness.Host
	for _, h := range w.net.Hosts {
		hosts = append(hosts, harness.Host{IP: h.IP, Command: h.Command(), Dial: h.Dial})
	}
	t.Setenv("IMAGE_BUILDER_TEST_POWER_LOSS", "1")
	w.Cluster = harness.StartClusterOn(t, hosts, addr, harness.Config{
		"registry": map[string]any{"insecureHosts": []string{addr}, "allowHosts": []string{addr}},
		"log":      map[string]any{"level": "info"},
	})
	return w
}

// options are those of the load.
func (w *world) options(d time.Duration, rate float64) verify.Options {
	w.t.Helper()
	o := verify.Options{
		Duration: d, Rate: rate, Profile: verify.ProfileMixed, Readers: 2, Cancel: 8, Looker: w.looker, Patience: 2 * time.Minute,
		Auth: &imagebuilderv1.RegistryAuth{AllowBaseRepository: true}, Faults: &verify.Faults{},
	}
	var err error
	if o.Instant, err = w.looker.Prepare(w.t.Context(), w.reg.Addr+"/library/verify", 60, 1, 1024); err != nil {
		w.t.Fatal(err)
	}
	if o.Images, err = w.looker.Prepare(w.t.Context(), w.reg.Addr+"/library/verify", 40, 4, 64<<10); err != nil {
		w.t.Fatal(err)
	}
	o.Profile = verify.ProfileRef
	o.Images = append(o.Images, o.Instant...)
	for _, n := range w.Nodes {
		o.Servers = append(o.Servers, n.GRPC)
	}
	return o
}

// victims orders the nodes of a step.
func (w *world) victims(s Step) []*harness.Node {
	var out []*harness.Node
	for _, i := range s.Order {
		out = append(out, w.Nodes[i])
	}
	if !s.Leader {
		return out
	}
	for i, n := range out {
		if res, err := n.Members(w.t.Context(), true); err == nil && res.Leader != "" {
			at := slices.IndexFunc(out, func(x *harness.Node) bool { return x.Name == res.Leader })
			out[0], out[at] = out[at], out[0]
			_ = i
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

// follow goes through a schedule until ctx ends, and leaves everything healed.
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

// heal takes back whatever was done.
func (w *world) heal() {
	w.net.Heal()
	w.reg.Signal(syscall.SIGCONT)
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
}

// keep writes a file where the results are kept.
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
