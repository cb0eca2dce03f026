//go:build kubernetes

package kubelet_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// census counts all pods that were created in a namespace.
type census struct {
	mu   sync.Mutex
	pods map[types.UID]string
}

func (s *install) census() *census {
	s.t.Helper()
	c := &census{pods: map[types.UID]string{}}
	f := informers.NewSharedInformerFactoryWithOptions(kube.Client, 0, informers.WithNamespace(s.namespace))
	i := f.Core().V1().Pods().Informer()
	if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		if p, ok := obj.(*corev1.Pod); ok {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.pods[p.UID] = p.Name
		}
	}}); err != nil {
		s.t.Fatal(err)
	}
	stop := make(chan struct{})
	f.Start(stop)
	s.t.Cleanup(func() {
		close(stop)
		f.Shutdown()
	})
	f.WaitForCacheSync(stop)
	return c
}

func (c *census) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pods)
}

// owner returns the running node, other than not, that owns a running build, or nil.
func (s *install) owner(at *harness.Node, id string, not *harness.Node) *harness.Node {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	res, err := at.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
	if err != nil || res.Build.Phase != imagebuilderv1.Phase_PHASE_RUNNING || len(res.Build.Attempts) == 0 {
		return nil
	}
	for _, n := range s.Running() {
		if n != not && n.Name == res.Build.Attempts[len(res.Build.Attempts)-1].Owner {
			return n
		}
	}
	return nil
}

// Test_Kubelet_LeaderAndOwnerKilled kills the leader and then an owner by SIGKILL while twenty
// builds run. Each build succeeds in its first pod, and all nodes return the same log without a
// gap.
func Test_Kubelet_LeaderAndOwnerKilled(t *testing.T) {
	const builds, lines = 20, 60
	s := newInstall(t, installOptions{})
	pods := s.census()
	repo := newGitRepo(t, "")
	repo.Commit(map[string]string{"Dockerfile": fmt.Sprintf("FROM %s\nARG WHO\nRUN for i in $(seq %d); do echo $WHO-line-$i.; sleep 0.5; done\n", s.base, lines)})
	var ids []string
	for i := range builds {
		ids = append(ids, s.request(s.Nodes[i%3], &imagebuilderv1.BuildImageRequest{
			RequestId: fmt.Sprint(i), Requester: "test",
			Source: gitSource(repo.URL, func(d *imagebuilderv1.DockerfileSource) {
				d.BuildArgs = map[string]string{"WHO": fmt.Sprintf("build-%02d", i)}
			}),
		}))
	}
	writes := func(n *harness.Node) (writing []string) {
		for i, id := range ids {
			if strings.Contains(s.logNow(n, id), fmt.Sprintf(" build-%02d-line-", i)) {
				writing = append(writing, id)
			}
		}
		return writing
	}
	testkit.Eventually(t, 3*time.Minute, "some builds write", func() bool { return len(writes(s.Nodes[0])) >= 3 })
	leader := s.Leader()
	leader.Kill()
	next := s.Leader()
	leader.Run()
	var victim *harness.Node
	testkit.Eventually(t, 2*time.Minute, "a node that does not lead owns a running build", func() bool {
		for _, id := range ids {
			if victim = s.owner(next, id, next); victim != nil {
				return true
			}
		}
		return false
	})
	t.Logf("killed the leader %s and the owner %s", leader.Name, victim.Name)
	victim.Kill()
	victim.Run()
	for i, id := range ids {
		b := s.succeeded(s.Nodes[0], id)
		if len(b.Attempts) != 1 {
			t.Errorf("build %d has %d attempts", i, len(b.Attempts))
		}
		first := s.log(s.Nodes[0], id)
		for _, n := range s.Nodes[1:] {
			if other := s.log(n, id); other != first {
				t.Errorf("build %d: %s returns another log than %s:\n%s\n---\n%s", i, n.Name, s.Nodes[0].Name, other, first)
			}
		}
		for l := 1; l <= lines; l++ {
			if n := strings.Count(first, fmt.Sprintf(" build-%02d-line-%d.\n", i, l)); n != 1 {
				t.Errorf("build %d: line %d occurs %d times in the log", i, l, n)
				break
			}
		}
	}
	if n := pods.count(); n != builds {
		t.Errorf("there were %d pods for %d builds", n, builds)
	}
	s.tidy()
}

// Test_Kubelet_KubeletKilled kills the kubelet while a build runs. The build continues in its pod.
func Test_Kubelet_KubeletKilled(t *testing.T) {
	s := newInstall(t, installOptions{})
	gate := newGate(t)
	id := s.build(s.Nodes[0], "kubelet", "FROM base\nRUN echo before && wget -q -O- "+gate.url+" && echo the-end-$((1+1))\n")
	gate.await()
	t.Cleanup(func() { mustRecover(t) })
	kube.Kubelet.Kill()
	if err := kube.Kubelet.Start(); err != nil {
		t.Fatal(err)
	}
	gate.open()
	if err := kube.AwaitNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := s.succeeded(s.Nodes[1], id)
	if log := s.log(s.Nodes[2], id); len(b.Attempts) != 1 || strings.Count(log, " the-end-2\n") != 1 {
		t.Errorf("%d attempts, log %s", len(b.Attempts), log)
	}
	if names := s.tidy(); len(names) != 1 {
		t.Errorf("pods %v", names)
	}
}
