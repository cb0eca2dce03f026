//go:build kubernetes

package kwok_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/kubelet"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// clients is the number of concurrent clients. Each requests a build and waits for its end.
const clients = 600

// number returns the number of builds: 150, or $KWOK_BUILDS.
func number(t *testing.T) int {
	t.Helper()
	s := os.Getenv("KWOK_BUILDS")
	if s == "" {
		return 150
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 100 {
		t.Fatalf("KWOK_BUILDS=%s is not a number of at least 100", s)
	}
	return n
}

// Test_Kwok_ScriptedEndings runs builds whose pods end in all possible ways. Meanwhile SIGKILL ends
// the leader four times and the API server three times. Each build ends as its script determines,
// with the expected attempts and blames. Each attempt had exactly one pod, and no pod or Secret is
// left.
func Test_Kwok_ScriptedEndings(t *testing.T) {
	total := number(t)
	const namespace = "builds"
	reg := registrytest.Start(t, registrytest.Options{Addr: kubelet.Address + ":5001"})
	// The images that workers report as pushed. Concurrent builds have different images, because
	// the registry sometimes fails if many clients tag the same image.
	var digests []string
	for i := range min(total, clients) {
		digests = append(digests, reg.Push(t, fmt.Sprint("base-images:pushed-", i), registrytest.RandomImage(t, 1, 1024)))
	}
	account, err := kube.Account(t.Context(), namespace)
	if err != nil {
		t.Fatal(err)
	}
	objects, director := keepLedger(t, namespace), newDirector(t, namespace)
	s := &world{t: t, director: director, digests: digests, repository: reg.Addr + "/base-images", builds: map[string]scriptedBuild{}}
	var hosts []harness.Host
	for _, ip := range kubelet.HostAddresses {
		hosts = append(hosts, harness.Host{IP: ip})
	}
	s.Cluster = harness.StartClusterOn(t, hosts, reg.Addr, harness.Config{
		"pprofAddress": "", // the nodes share the loopback of this host
		"registry":     map[string]any{"allowLoopback": false, "insecureHosts": []string{reg.Addr}},
		"runtimes":     map[string]any{"dockerfile": "kubernetes"},
		"builds":       map[string]any{"attempts": 3, "retryBackoff": "200ms", "runningPerNode": clients / 3},
		"log":          map[string]any{"level": "info"},
		"kubernetes": map[string]any{
			"namespace": namespace, "install": "test", "kubeconfig": account, "qps": 200, "burst": 400,
			"timeouts": map[string]any{"termination": "3s", "image": "5s"},
			"images":   map[string]any{"worker": kubelet.WorkerImage, "buildkit": kubelet.RootlessImage},
		},
	})

	keepScheduling(t)
	memory := watchMemory(t, s.Cluster)
	began := time.Now()
	var building sync.WaitGroup
	building.Go(func() { s.build(total) })
	s.kill(total)
	building.Wait()
	if t.Failed() {
		return
	}
	took := time.Since(began)
	idle, most := memory()

	attempts := s.check()
	testkit.Eventually(t, 10*time.Minute, "no pod and no Secret is left", func() bool {
		return len(objects.left("pods")) == 0 && len(objects.left("secrets")) == 0
	})
	swept := time.Since(began) - took
	s.comparePods(objects, attempts)

	t.Logf("%d builds, %d attempts in %s; leaders killed %d times, the API server %d times; nothing left %s later",
		total, len(attempts), took.Round(time.Second), s.leaders, s.servers, swept.Round(time.Second))
	counts := requests(t, namespace)
	sum := 0
	for _, kind := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Compare(counts[b], counts[a]) }) {
		sum += counts[kind]
		t.Logf("API requests: %-20s %6d, %.2f a build", kind, counts[kind], float64(counts[kind])/float64(total))
	}
	t.Logf("API requests: %d, %.2f a build, %.2f an attempt; memory of a node: %d MiB before, %d at most, for %d builds at a time: %d KiB each",
		sum, float64(sum)/float64(total), float64(sum)/float64(len(attempts)), idle>>20, most>>20, min(total, clients), (most-idle)>>10/int64(min(total, clients)))
}

// world is a cluster with its scripted builds.
type world struct {
	*harness.Cluster
	t          *testing.T
	director   *director
	repository string
	digests    []string
	ended      atomic.Int64

	leaders, servers int // killed

	mu     sync.Mutex
	builds map[string]scriptedBuild
}

// scriptedBuild is a build with its script.
type scriptedBuild struct {
	script script
	digest string
	build  *imagebuilderv1.Build
}

// build requests all builds, through all nodes, and waits for their ends.
func (s *world) build(total int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Minute+time.Duration(total)*time.Second/2)
	defer cancel()
	next := make(chan int)
	var running sync.WaitGroup
	for range min(total, clients) {
		running.Go(func() {
			for i := range next {
				s.one(ctx, i)
			}
		})
	}
	for i := range total {
		next <- i
	}
	close(next)
	running.Wait()
}

// one requests one build, assigns its script and waits for its end.
func (s *world) one(ctx context.Context, i int) {
	n := s.Nodes[i%len(s.Nodes)]
	// With a commit id, like in Gitpod's requests, the service does not contact the git host.
	source := &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{
		DockerfilePath: "Dockerfile", DockerfileVersion: fmt.Sprint(i),
		Context: &imagebuilderv1.DockerfileSource_Git{Git: &imagebuilderv1.GitContext{
			RemoteUri: "https://git.example/app", CloneTarget: fmt.Sprintf("%040d", i), TargetMode: imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_COMMIT,
		}},
	}}}
	res, err := harness.Persist(ctx, func(ctx context.Context) (*imagebuilderv1.BuildImageResponse, error) {
		return n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{RequestId: fmt.Sprint(i), Requester: fmt.Sprint("r", i%50), Source: source})
	})
	if err != nil || res.Build.GetId() == "" {
		s.t.Errorf("build %d: %v, %v", i, res, err)
		return
	}
	digest := s.digests[i%len(s.digests)]
	all := scripts(s.repository, digest)
	p := scriptedBuild{script: all[i%len(all)], digest: digest}
	p.script.after = time.Duration(1+i%4) * time.Second
	s.director.assign(res.Build.Id, p.script)
	if p.build = n.Wait(s.t, ctx, res.Build.Id); p.build == nil {
		return
	}
	s.mu.Lock()
	s.builds[p.build.Id] = p
	s.mu.Unlock()
	s.ended.Add(1)
}

// kill kills leaders and the API server during the builds. The last time it kills both at once.
func (s *world) kill(total int) {
	for _, k := range []struct {
		at             float64
		leader, server bool
	}{{0.1, true, false}, {0.2, false, true}, {0.35, true, false}, {0.5, true, false}, {0.6, false, true}, {0.75, true, true}} {
		for float64(s.ended.Load()) < k.at*float64(total) {
			if s.t.Failed() || s.t.Context().Err() != nil {
				return
			}
			pause(100 * time.Millisecond)
		}
		if k.server {
			kube.APIServer.Kill()
			s.servers++
		}
		if k.leader {
			s.killLeader()
		}
		if k.server {
			pause(5 * time.Second) // the length of the fault
			if err := kube.APIServer.Start(); err != nil {
				s.t.Error(err)
				return
			}
		}
	}
}

// pause waits for d.
func pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

func (s *world) killLeader() {
	leader := s.Leader()
	leader.Kill()
	s.leaders++
	leader.Launch()
}

// check compares each build with its script, and returns all attempts by the names of their pods.
func (s *world) check() (attempts map[string]ending) {
	s.t.Helper()
	attempts = map[string]ending{}
	shown := 0
	for _, p := range s.builds {
		for _, a := range p.build.Attempts {
			attempts[workload.Name(p.build.Id, a.Number)] = p.script.attempts[min(int(a.Number), len(p.script.attempts))-1]
		}
		wrong := p.script.check(p.build, p.digest)
		if wrong == "" {
			continue
		}
		if shown++; shown <= 20 {
			s.t.Error(wrong)
		}
	}
	if shown > 0 {
		s.t.Errorf("%d of %d builds did not end as in their scripts", shown, len(s.builds))
	}
	return attempts
}

// comparePods checks that each attempt had exactly one pod and one Secret, and that there were no
// others.
func (s *world) comparePods(objects *ledger, attempts map[string]ending) {
	s.t.Helper()
	for _, resource := range []string{"pods", "secrets"} {
		made, err := objects.everMade(resource)
		if err != nil {
			s.t.Fatal(err)
		}
		for name, n := range made {
			if e, known := attempts[name]; !known || n != 1 {
				s.t.Errorf("%s/%s was created %d times; an attempt has that name: %v (%s)", resource, name, n, known, e.kind)
			}
		}
		for name := range attempts {
			if made[name] == 0 {
				s.t.Errorf("the attempt %s never had one of %s", name, resource)
			}
		}
	}
}

// keepScheduling starts the scheduler of Kubernetes again when it has ended, as a control plane
// does. The scheduler exits if a pod was replaced by another one with the same name while it could
// not watch.
func keepScheduling(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if kube.Scheduler.Running() {
				continue
			}
			if err := kube.Scheduler.Start(); err != nil {
				t.Errorf("start the scheduler again: %v", err)
				return
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
}

// watchMemory measures the memory of the nodes. The returned function ends this, and returns the
// highest memory of a node at the beginning and during the whole time, in bytes.
func watchMemory(t *testing.T, c *harness.Cluster) func() (before, most int64) {
	t.Helper()
	look := func() (most int64) {
		for _, n := range c.Running() {
			most = max(most, residentBytes(n.Pid()))
		}
		return most
	}
	before := look()
	var most int64
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			most = max(most, look())
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return func() (int64, int64) {
		stop()
		<-done
		return before, most
	}
}

// residentBytes returns the resident memory of a process, or 0 if it has ended.
func residentBytes(pid int) int64 {
	raw, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64) // the kernel writes a valid number
			return kb << 10
		}
	}
	return 0
}
