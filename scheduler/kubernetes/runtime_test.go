package kubernetes_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/go-cmp/cmp"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Run_Copy runs a build of a ref in a pod, with a real registry.
func Test_Run_Copy(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	c.startKubelet()
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 2, 1<<18))
	r := newRuntime(t, c, "node-a", reg.Addr)
	s := newSink()
	w := copyOf(reg, "b1", digest)
	out, err := r.Run(testContext(t), w, s)
	if err != nil {
		t.Fatal(err)
	}
	if out.Digest != digest || out.Repository != reg.Addr+"/workspace" || out.SizeBytes == 0 {
		t.Errorf("outcome %+v, want %s", out, digest)
	}
	reg.Pull(t, "workspace@"+digest)
	if !s.running || s.text() == "" {
		t.Errorf("running %v, output %q", s.running, s.text())
	}
	names, err := r.List(t.Context())
	if err != nil || len(names) != 1 || names[0] != "ib-b1-1" {
		t.Errorf("List: %v, %v", names, err)
	}
	// The worker stops waiting.
	testkit.Eventually(t, 20*time.Second, "the pod has ended", func() bool { return c.pod("ib-b1-1").Status.Phase == corev1.PodSucceeded })
}

// Test_Pod_Secrets checks where secrets are: only in the Secret, which the pod owns, and registry
// credentials only in the file of the proxy.
func Test_Pod_Secrets(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	r := newRuntime(t, c, "node-a", reg.Addr)
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, r, copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64)), newSink())
	secret := c.await(ctx, "ib-b1-1")
	pod := c.pod("ib-b1-1")
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "password") {
		t.Errorf("the pod holds a credential: %s", raw)
	}
	if strings.Contains(string(secret.Data["job.json"]), "install-password") {
		t.Error("the worker is given a registry credential")
	}
	if !strings.Contains(string(secret.Data["proxy.json"]), "install-password") {
		t.Error("the proxy has no registry credential")
	}
	if len(secret.OwnerReferences) != 1 || secret.OwnerReferences[0].UID != pod.UID {
		t.Errorf("the Secret is owned by %v, not the pod", secret.OwnerReferences)
	}
	if len(pod.OwnerReferences) != 1 || pod.OwnerReferences[0].Kind != "ConfigMap" {
		t.Errorf("the pod is owned by %v, not the install", pod.OwnerReferences)
	}
	cancel()
	if _, err := x.wait(t); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if c.pod("ib-b1-1") == nil {
		t.Error("the pod ended with the context")
	}
}

// Test_Run_EndedUnwatched finds a pod that ended while no owner watched it.
func Test_Run_EndedUnwatched(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	c.linger = time.Nanosecond
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	w := copyOf(reg, "b1", digest)
	// The first owner leaves before its pod starts.
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, newRuntime(t, c, "node-a", reg.Addr), w, newSink())
	c.await(ctx, w.Name())
	cancel()
	_, _ = x.wait(t)
	c.start(c.pod(w.Name()))
	testkit.Eventually(t, 20*time.Second, "the pod has ended", func() bool { return c.pod(w.Name()).Status.Phase == corev1.PodSucceeded })

	w.Epoch = 2
	s := newSink()
	out, err := newRuntime(t, c, "node-b", reg.Addr).Run(testContext(t), w, s)
	if err != nil || out.Digest != digest {
		t.Errorf("Run: %+v, %v", out, err)
	}
	const lost = "lost with its pod"
	if !strings.Contains(s.text(), lost) {
		t.Errorf("the log does not say that output is missing: %q", s.text())
	}
	if s.Offset() != 0 {
		t.Errorf("the next owner would continue at byte %d of the output, of which nothing is stored", s.Offset())
	}
	if p := c.pod(w.Name()); p.Labels["image-builder/owner"] != "node-b" || p.Labels["image-builder/epoch"] != "2" {
		t.Errorf("the labels name the former owner: %v", p.Labels)
	}

	// A former owner stored all of the output, or all but one byte, before it was killed.
	var res podapi.Result
	if err := json.Unmarshal([]byte(c.pod(w.Name()).Status.ContainerStatuses[0].State.Terminated.Message), &res); err != nil || res.Length == 0 {
		t.Fatalf("the result does not tell the length of the output: %+v, %v", res, err)
	}
	for missing, told := range []bool{false, true} {
		w.Epoch++
		s := newSink()
		_, _ = s.Write(make([]byte, int(res.Length)-missing))
		if out, err := newRuntime(t, c, "node-c", reg.Addr).Run(testContext(t), w, s); err != nil || out.Digest != digest {
			t.Errorf("Run: %+v, %v", out, err)
		}
		if strings.Contains(s.text(), lost) != told {
			t.Errorf("%d bytes are missing; the log: %q", missing, s.text())
		}
	}
}

// Test_Run_Fenced leaves a pod to its later owner.
func Test_Run_Fenced(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	w := copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64))
	w.Epoch = 5
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, newRuntime(t, c, "node-b", reg.Addr), w, newSink())
	c.await(ctx, w.Name())
	old := *w
	old.Epoch = 4
	_, err := newRuntime(t, c, "node-a", reg.Addr).Run(testContext(t), &old, newSink())
	if !errors.Is(err, builds.ErrFenced) {
		t.Errorf("the former owner got %v", err)
	}
	cancel()
	_, _ = x.wait(t)
	if c.pod(w.Name()) == nil {
		t.Error("the former owner deleted the pod")
	}
}

// Test_Run_PodGone checks that a build whose output is stored does not start again.
func Test_Run_PodGone(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	s := newSink()
	_, _ = s.Write([]byte("what the former owner stored\n"))
	_, err := newRuntime(t, c, "node-a", reg.Addr).Run(testContext(t), copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64)), s)
	mustFail(t, err, builds.BlameInfrastructure, "ib-b1-1", "gone")
	if c.pod("ib-b1-1") != nil {
		t.Error("a pod was created")
	}
}

// Test_Run_StartedAndGone checks that a workload that a former owner has seen running does not
// start again, even without output.
func Test_Run_StartedAndGone(t *testing.T) {
	reg, c := &registrytest.Registry{Addr: "reg.example"}, newCluster(t)
	w := copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64))
	r := newRuntime(t, c, "node-a", reg.Addr, func(o *kubernetes.Options) {
		o.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
	})
	ctx, cancel := context.WithCancel(testContext(t))
	s := newSink()
	x := start(ctx, r, w, s)
	c.await(ctx, w.Name())
	c.status(w.Name(), func(st *corev1.PodStatus) {
		st.PodIP = "10.0.0.1"
		st.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
	testkit.Eventually(t, 20*time.Second, "the owner reports that the workload runs", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.running
	})
	cancel()
	_, _ = x.wait(t)
	if err := c.client.CoreV1().Pods(namespace).Delete(t.Context(), w.Name(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Epoch, w.Started = 2, true
	_, err := newRuntime(t, c, "node-b", reg.Addr).Run(testContext(t), w, newSink())
	mustFail(t, err, builds.BlameInfrastructure, w.Name(), "gone")
	if c.pod(w.Name()) != nil {
		t.Error("the attempt got a second pod")
	}
}

// Test_Run_WatchBehind adopts a pod that has ended while the watch still shows it as running.
func Test_Run_WatchBehind(t *testing.T) {
	reg, c := &registrytest.Registry{Addr: "reg.example"}, newCluster(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	w := copyOf(reg, "b1", digest)
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, newRuntime(t, c, "node-a", reg.Addr), w, newSink())
	c.await(ctx, w.Name())
	cancel()
	_, _ = x.wait(t)
	c.status(w.Name(), func(s *corev1.PodStatus) {
		s.Phase, s.PodIP = corev1.PodRunning, "10.0.0.1"
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
	ended := c.pod(w.Name())
	ended.Labels["image-builder/owner"], ended.Labels["image-builder/epoch"] = "node-b", "2"
	ended.Status.Phase = corev1.PodSucceeded
	ended.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		Message: `{"repository":"r","digest":"` + digest + `","sizeBytes":1}`,
	}}
	c.fake.PrependReactor("get", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, ended, nil })
	w.Epoch = 2
	out, err := newRuntime(t, c, "node-b", reg.Addr).Run(testContext(t), w, newSink())
	if err != nil || out.Digest != digest {
		t.Errorf("Run: %+v, %v", out, err)
	}
}

// Test_Run_Outage survives an API that returns only errors for a while.
func Test_Run_Outage(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	c.startKubelet()
	var failures atomic.Int32
	for _, verb := range []string{"create", "get"} {
		c.fake.PrependReactor(verb, "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			switch n := failures.Add(1); {
			case n > 9:
				return false, nil, nil
			case n%3 == 0:
				return true, nil, apierrors.NewTooManyRequests("slow down", 1)
			case n%3 == 1:
				return true, nil, errors.New("connection refused")
			}
			return true, nil, apierrors.NewServiceUnavailable("etcd is away")
		})
	}
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	r := newRuntime(t, c, "node-a", reg.Addr, kubernetes.FastRetries)
	if out, err := r.Run(testContext(t), copyOf(reg, "b1", digest), newSink()); err != nil || out.Digest != digest {
		t.Errorf("Run: %+v, %v", out, err)
	}
	if failures.Load() < 9 {
		t.Errorf("only %d calls failed", failures.Load())
	}
}

// Test_Run_Refused checks the failures for a pod that Kubernetes does not accept, and for a quota
// that stays full for too long.
func Test_Run_Refused(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for name, c := range map[string]struct {
		err   error
		blame any
		says  string
	}{
		"admission": {apierrors.NewForbidden(pods, "ib-b1-1", errors.New(`violates PodSecurity "restricted:latest"`)), builds.BlameInfrastructure, "PodSecurity"},
		"webhook":   {apierrors.NewBadRequest(`admission webhook "policy" denied the request`), builds.BlameInfrastructure, "denied"},
		"rights":    {apierrors.NewForbidden(pods, "ib-b1-1", errors.New(`User "system:serviceaccount:x:y" cannot create resource "pods" in API group "" in the namespace "builds"`)), builds.BlameInfrastructure, "rights of deploy/kubernetes"},
		"quota":     {apierrors.NewForbidden(pods, "ib-b1-1", errors.New("exceeded quota: builds, requested: pods=1, used: pods=5, limited: pods=5")), builds.BlameQuota, "raise the quota"},
		"new quota": {apierrors.NewForbidden(pods, "ib-b1-1", errors.New("status unknown for quota: builds, resources: pods")), builds.BlameQuota, "raise the quota"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCluster(t)
			cl.fake.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, c.err })
			r := newRuntime(t, cl, "node-a", "reg.example", kubernetes.FastRetries, func(o *kubernetes.Options) {
				o.QuotaTimeout, o.RightsTimeout = 30*time.Millisecond, 30*time.Millisecond
			})
			reg := &registrytest.Registry{Addr: "reg.example"}
			_, err := r.Run(testContext(t), copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64)), newSink())
			if c.blame == builds.BlameQuota {
				mustFail(t, err, builds.BlameQuota, c.says)
			} else {
				mustFail(t, err, builds.BlameInfrastructure, c.says)
			}
		})
	}
}

// Test_Run_Stuck gives up a pod that cannot start, but does not delete it. A pod without a node may
// wait.
func Test_Run_Stuck(t *testing.T) {
	c := newCluster(t)
	reg := &registrytest.Registry{Addr: "reg.example"}
	r := newRuntime(t, c, "node-a", reg.Addr, kubernetes.FastRetries, func(o *kubernetes.Options) { o.ImageTimeout = 50 * time.Millisecond })
	w := copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64))
	x := start(testContext(t), r, w, newSink())
	c.await(t.Context(), w.Name())
	c.status(w.Name(), func(s *corev1.PodStatus) {
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/3 nodes are available"}}
	})
	// It waits longer than the limit of any other problem.
	select {
	case <-x.done:
		t.Fatalf("gave up a pod that waits for a node: %v", x.err)
	case <-time.After(150 * time.Millisecond):
	}
	c.status(w.Name(), func(s *corev1.PodStatus) {
		s.Conditions = nil
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", Image: "image-builder:1", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "not found"}}}}
	})
	_, err := x.wait(t)
	mustFail(t, err, builds.BlameInfrastructure, "image-builder:1", "cannot be pulled", "not found")
	// The next owner would find the same, until the end is committed.
	var f *workload.Failure
	if c.pod(w.Name()) == nil || !errors.As(err, &f) || !f.Remains {
		t.Errorf("the pod was deleted before its end is committed, or is said to run: %v", err)
	}
}

// Test_Run_Deleted checks the failure for a pod that somebody deleted.
func Test_Run_Deleted(t *testing.T) {
	c := newCluster(t)
	reg := &registrytest.Registry{Addr: "reg.example"}
	r := newRuntime(t, c, "node-a", reg.Addr)
	w := copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64))
	x := start(testContext(t), r, w, newSink())
	c.await(t.Context(), w.Name())
	if err := c.client.CoreV1().Pods(namespace).Delete(t.Context(), w.Name(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := x.wait(t)
	mustFail(t, err, builds.BlameInfrastructure, "ib-b1-1", "vanished")
}

// Test_Run_Deadline gives up, at the deadline of the build, a pod that never starts. The caller
// stops the pod, because it knows whether it is still the owner.
func Test_Run_Deadline(t *testing.T) {
	c := newCluster(t)
	reg := &registrytest.Registry{Addr: "reg.example"}
	r := newRuntime(t, c, "node-a", reg.Addr)
	w := copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64))
	w.Deadline = time.Now().Add(-kubernetes.DeadlineGrace + time.Second)
	_, err := r.Run(testContext(t), w, newSink())
	mustFail(t, err, builds.BlameTimeout, "deadline")
	var f *workload.Failure
	if c.pod(w.Name()) == nil || !errors.As(err, &f) || f.Remains {
		t.Errorf("the pod was deleted, or is said not to run: %v", err)
	}
}

// Test_Stop deletes the pod of that name, but no pod of another install.
func Test_Stop(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	r := newRuntime(t, c, "node-a", reg.Addr)
	if err := r.Stop(testContext(t), "ib-none-1"); err != nil {
		t.Errorf("stop a pod that does not exist: %v", err)
	}
	w := copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64))
	x := start(testContext(t), r, w, newSink())
	c.await(t.Context(), w.Name())
	other := newRuntime(t, c, "node-a", reg.Addr, func(o *kubernetes.Options) { o.Install = "other" })
	if err := other.Stop(testContext(t), w.Name()); err != nil || c.pod(w.Name()) == nil {
		t.Errorf("another install stopped the pod: %v", err)
	}
	if err := r.Stop(testContext(t), w.Name()); err != nil || c.pod(w.Name()) != nil {
		t.Errorf("the pod is there still: %v", err)
	}
	if _, err := x.wait(t); err == nil {
		t.Error("Run of a stopped workload succeeded")
	}
}

// Test_AnotherCluster ignores the pods of another cluster that uses the same install name by
// mistake.
func Test_AnotherCluster(t *testing.T) {
	reg, c := &registrytest.Registry{Addr: "reg.example"}, newCluster(t)
	node := func(cluster string) *kubernetes.Runtime {
		return newRuntime(t, c, "node", reg.Addr, kubernetes.FastRetries, func(o *kubernetes.Options) {
			o.MaxPods = 1
			if cluster != "older" {
				o.Cluster = func() string { return cluster }
			}
		})
	}
	begin := func(cluster, build string) *workload.Workload {
		t.Helper()
		w := copyOf(reg, build, "sha256:"+strings.Repeat("a", 64))
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		x := start(ctx, node(cluster), w, newSink())
		if c.await(ctx, w.Name()) == nil {
			t.Fatalf("the cluster %s gets no pod for %s", cluster, build)
		}
		cancel()
		_, _ = x.wait(t)
		return w
	}
	lists := func(want map[string][]string) {
		t.Helper()
		for cluster, names := range want {
			if got, err := node(cluster).List(t.Context()); err != nil || !slices.Equal(got, names) {
				t.Errorf("the cluster %q lists %v, %v, want %v", cluster, got, err, names)
			}
		}
	}
	begin("one", "b1")
	w := begin("two", "b2") // has one place, and no pod yet
	lists(map[string][]string{"one": {"ib-b1-1"}, "two": {"ib-b2-1"}, "three": nil, "": {"ib-b1-1", "ib-b2-1"}})

	// The state of a cluster was restored into another one.
	w.Epoch++
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, node("three"), w, newSink())
	testkit.Eventually(t, 20*time.Second, "the pod is adopted", func() bool { return c.pod(w.Name()).Labels["image-builder/epoch"] == "2" })
	cancel()
	_, _ = x.wait(t)
	lists(map[string][]string{"two": nil, "three": {"ib-b2-1"}})

	for _, name := range []string{"ib-b1-1", "ib-b2-1"} {
		if err := c.client.CoreV1().Pods(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	begin("older", "b3")
	lists(map[string][]string{"one": {"ib-b3-1"}, "two": {"ib-b3-1"}})
}

// Test_MaxPods lets a further pod wait for the end of another one.
func Test_MaxPods(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	r := newRuntime(t, c, "node-a", reg.Addr, kubernetes.FastRetries, func(o *kubernetes.Options) { o.MaxPods = 1 })
	first, second := copyOf(reg, "b1", digest), copyOf(reg, "b2", digest)
	ctx := testContext(t)
	x := start(ctx, r, first, newSink())
	c.await(ctx, first.Name())
	y := start(ctx, r, second, newSink())
	select {
	case <-y.done:
		t.Fatal("the second did not wait")
	case <-time.After(100 * time.Millisecond):
	}
	if c.pod(second.Name()) != nil {
		t.Error("there are two pods")
	}
	c.startKubelet()
	c.start(c.pod(first.Name()))
	for _, run := range []*run{x, y} {
		if out, err := run.wait(t); err != nil || out.Digest != digest {
			t.Errorf("Run: %+v, %v", out, err)
		}
	}
}

// Test_MaxPods_Burst starts many builds at once, before the watch shows any pod.
func Test_MaxPods_Burst(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	c.startKubelet()
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	var most atomic.Int32
	c.fake.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		list, err := c.fake.Tracker().List(corev1.SchemeGroupVersion.WithResource("pods"), corev1.SchemeGroupVersion.WithKind("Pod"), namespace)
		if err != nil {
			return true, nil, err
		}
		n := int32(1)
		for _, p := range list.(*corev1.PodList).Items {
			if p.Status.Phase != corev1.PodSucceeded {
				n++
			}
		}
		most.Store(max(n, most.Load()))
		return false, nil, nil
	})
	r := newRuntime(t, c, "node-a", reg.Addr, kubernetes.FastRetries, func(o *kubernetes.Options) { o.MaxPods = 1 })
	var runs []*run
	for i := range 20 {
		runs = append(runs, start(testContext(t), r, copyOf(reg, fmt.Sprint("b", i), digest), newSink()))
	}
	for _, x := range runs {
		if out, err := x.wait(t); err != nil || out.Digest != digest {
			t.Errorf("Run: %+v, %v", out, err)
		}
	}
	if n := most.Load(); n != 1 {
		t.Errorf("there were %d pods at a time", n)
	}
}

// Test_MaxPods_Order: pods that wait for a place get it in the order in which they began to wait, and
// a pod that does not wait any more holds up no other one.
func Test_MaxPods_Order(t *testing.T) {
	const waiters = 8
	reg, c := startRegistry(t), newCluster(t)
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	var mu sync.Mutex
	var created []string
	c.fake.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		created = append(created, a.(clienttesting.CreateAction).GetObject().(*corev1.Pod).Name)
		return false, nil, nil
	})
	r := newRuntime(t, c, "node-a", reg.Addr, kubernetes.FastRetries, func(o *kubernetes.Options) { o.MaxPods = 1 })
	first := copyOf(reg, "b0", digest)
	x := start(testContext(t), r, first, newSink())
	c.await(testContext(t), first.Name())
	want, runs := []string{first.Name()}, []*run{x}
	for i := range waiters {
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		w := copyOf(reg, fmt.Sprint("b", waiters-i), digest) // the names are in the reverse order
		y := start(ctx, r, w, newSink())
		testkit.Eventually(t, 20*time.Second, "the pod waits", func() bool { return r.Waiting() == i+1 })
		if i == 1 {
			cancel()
			if _, err := y.wait(t); err == nil {
				t.Error("a build that was cancelled while it waited has succeeded")
			}
			testkit.Eventually(t, 20*time.Second, "the pod does not wait any more", func() bool { return r.Waiting() == i })
			w = copyOf(reg, "c", digest)
			y = start(testContext(t), r, w, newSink())
			testkit.Eventually(t, 20*time.Second, "another pod waits", func() bool { return r.Waiting() == i+1 })
		}
		want, runs = append(want, w.Name()), append(runs, y)
	}
	c.startKubelet()
	c.start(c.pod(first.Name()))
	for _, x := range runs {
		if _, err := x.wait(t); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(want, created); diff != "" {
		t.Error("the order of the pods:", diff)
	}
}

// Test_Run_Gate keeps a pod away from the scheduler until its Secret exists, even if the owner ends
// in between.
func Test_Run_Gate(t *testing.T) {
	c := newCluster(t)
	reg := &registrytest.Registry{Addr: "reg.example"}
	held := make(chan struct{})
	c.fake.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		select {
		case <-held:
			return false, nil, nil
		default:
			return true, nil, errors.New("connection refused")
		}
	})
	w := copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64))
	gates := func() int {
		if p := c.pod(w.Name()); p != nil {
			return len(p.Spec.SchedulingGates)
		}
		return -1
	}
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, newRuntime(t, c, "node-a", reg.Addr, kubernetes.FastRetries), w, newSink())
	testkit.Eventually(t, 20*time.Second, "the pod is there, gated", func() bool { return gates() == 1 })
	cancel()
	_, _ = x.wait(t)
	w.Epoch++
	ctx, cancel = context.WithCancel(testContext(t))
	x = start(ctx, newRuntime(t, c, "node-b", reg.Addr, kubernetes.FastRetries), w, newSink())
	testkit.Eventually(t, 20*time.Second, "the pod is adopted", func() bool { return c.pod(w.Name()).Labels["image-builder/owner"] == "node-b" })
	if gates() != 1 {
		t.Error("the pod lost its gate before its Secret was there")
	}
	close(held)
	testkit.Eventually(t, 20*time.Second, "the pod has no gate", func() bool { return gates() == 0 })
	if _, err := c.client.CoreV1().Secrets(namespace).Get(ctx, w.Name(), metav1.GetOptions{}); err != nil {
		t.Errorf("the gate went before the Secret came: %v", err)
	}
	cancel()
	_, _ = x.wait(t)
}

// Test_Run_GateUntilCommitted keeps a pod away from the scheduler until the next owner would know
// that it exists. An owner that is deposed before that does not ungate it.
func Test_Run_GateUntilCommitted(t *testing.T) {
	c := newCluster(t)
	w := copyOf(&registrytest.Registry{Addr: "reg.example"}, "b1", "sha256:"+strings.Repeat("a", 64))
	gates := func() int { return len(c.pod(w.Name()).Spec.SchedulingGates) }
	w.Created = func(context.Context) error {
		if gates() != 1 {
			t.Error("the pod had no gate when it was to be committed")
		}
		return builds.ErrFenced
	}
	if _, err := newRuntime(t, c, "node-a", "reg.example").Run(testContext(t), w, newSink()); !errors.Is(err, builds.ErrFenced) {
		t.Errorf("Run: %v, want %v", err, builds.ErrFenced)
	}
	if gates() != 1 {
		t.Error("the pod lost its gate, and no next owner would know of it")
	}
	w.Epoch, w.Created = 2, func(context.Context) error { return nil }
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, newRuntime(t, c, "node-b", "reg.example"), w, newSink())
	testkit.Eventually(t, 20*time.Second, "the pod has no gate", func() bool { return gates() == 0 })
	cancel()
	_, _ = x.wait(t)
}

// Test_Run_SecretOnceCommitted uses a pod whose template names a node and which therefore has no
// gate. The pod gets no Secret until the next owner would know that it exists.
func Test_Run_SecretOnceCommitted(t *testing.T) {
	c := newCluster(t)
	r := newRuntime(t, c, "node-a", "reg.example", func(o *kubernetes.Options) { o.Pod.Patch = []byte("spec: {nodeName: machine-1}\n") })
	w := copyOf(&registrytest.Registry{Addr: "reg.example"}, "b1", "sha256:"+strings.Repeat("a", 64))
	committed := 0
	w.Created = func(ctx context.Context) error {
		committed++
		if p := c.pod(w.Name()); p == nil || len(p.Spec.SchedulingGates) != 0 {
			t.Errorf("the pod that was to be committed: %v", p)
		}
		return builds.ErrFenced
	}
	if _, err := r.Run(testContext(t), w, newSink()); !errors.Is(err, builds.ErrFenced) || committed != 1 {
		t.Errorf("Run: %v after %d commits, want %v", err, committed, builds.ErrFenced)
	}
	if _, err := c.client.CoreV1().Secrets(namespace).Get(t.Context(), w.Name(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod may run, and no next owner would know of it: %v", err)
	}
	w.Epoch, w.Created = 2, nil
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, r, w, newSink())
	if c.await(ctx, w.Name()) == nil {
		t.Error("the pod gets no Secret")
	}
	cancel()
	_, _ = x.wait(t)
}
