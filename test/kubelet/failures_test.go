//go:build kubernetes

package kubelet_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/kubelet"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Kubelet_PodTakenAway deletes and evicts pods of running builds. The next attempt succeeds,
// and the message of the first attempt has the reason.
func Test_Kubelet_PodTakenAway(t *testing.T) {
	s := newInstall(t, installOptions{})
	for _, c := range []struct {
		name, want string
		take       func(pod string) error
	}{
		{"deleted", "deleted", func(pod string) error {
			return kube.Client.CoreV1().Pods(s.namespace).Delete(t.Context(), pod, metav1.DeleteOptions{})
		}},
		{"evicted", "evicted", func(pod string) error {
			return kube.Client.PolicyV1().Evictions(s.namespace).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: s.namespace}})
		}},
	} {
		gate := newGate(t)
		id := s.build(s.Nodes[0], c.name, "FROM base\nRUN echo "+c.name+"-begins && wget -q -O- "+gate.url+"\n")
		gate.await()
		s.runs(s.Nodes[1], id, " "+c.name+"-begins\n")
		if err := c.take("ib-" + id + "-1"); err != nil {
			t.Fatal(err)
		}
		b := s.succeeded(s.Nodes[1], id)
		if len(b.Attempts) != 2 {
			t.Fatalf("%s: %d attempts: %v", c.name, len(b.Attempts), b.Attempts)
		}
		a := b.Attempts[0]
		t.Logf("%s: the first attempt: %s, %s", c.name, a.Blame, a.Message)
		if a.Blame != imagebuilderv1.Blame_BLAME_INFRASTRUCTURE || !strings.Contains(a.Message, c.want) {
			t.Errorf("%s: the first attempt ended as %s: %q, want a message with %q", c.name, a.Blame, a.Message, c.want)
		}
		if log := s.log(s.Nodes[2], id); !strings.Contains(log, " "+c.name+"-begins\n") || !strings.Contains(log, " through the gate\n") {
			t.Errorf("%s: the log: %s", c.name, log)
		}
	}
	s.tidy()
}

// Test_Kubelet_Memory runs a step that uses more memory than the limit of BuildKit.
func Test_Kubelet_Memory(t *testing.T) {
	s := newInstall(t, installOptions{over: harness.Config{"kubernetes": map[string]any{
		"resources": map[string]any{"buildkit": map[string]any{"limits": map[string]any{"memory": "256Mi"}}},
	}}})
	id := s.build(s.Nodes[0], "memory", "FROM base\nRUN dd if=/dev/zero of=/dev/null bs=600M count=1\n")
	b := s.await(s.Nodes[1], id)
	t.Logf("%s, %s: %s", b.Phase, b.Blame, b.Message)
	if b.Phase != imagebuilderv1.Phase_PHASE_FAILED || !strings.Contains(b.Message, "memory") {
		t.Errorf("%s, %s: %s", b.Phase, b.Blame, b.Message)
	}
	if b.Blame == imagebuilderv1.Blame_BLAME_INFRASTRUCTURE || len(b.Attempts) != 1 {
		t.Errorf("%s, %d attempts: the memory use of a build is no infrastructure failure", b.Blame, len(b.Attempts))
	}
	s.tidy()
}

// Test_Kubelet_NoImage configures a BuildKit image that does not exist.
func Test_Kubelet_NoImage(t *testing.T) {
	s := newInstall(t, installOptions{over: harness.Config{
		"builds":     map[string]any{"attempts": 1},
		"kubernetes": map[string]any{"images": map[string]any{"worker": kubelet.WorkerImage, "buildkit": "localhost/none:1"}},
	}})
	id := s.build(s.Nodes[0], "none", "FROM base\nRUN true\n")
	b := s.await(s.Nodes[1], id)
	t.Logf("%s: %s", b.Blame, b.Message)
	if b.Phase != imagebuilderv1.Phase_PHASE_FAILED || b.Blame != imagebuilderv1.Blame_BLAME_INFRASTRUCTURE || !strings.Contains(b.Message, "localhost/none:1") {
		t.Errorf("%s, %s: %s", b.Phase, b.Blame, b.Message)
	}
	s.tidy()
}

// Test_Kubelet_Quota: with an exhausted quota of the namespace, a build waits, and after the
// timeout it fails with this reason.
func Test_Kubelet_Quota(t *testing.T) {
	s := newInstall(t, installOptions{over: harness.Config{
		"builds":     map[string]any{"attempts": 1},
		"kubernetes": map[string]any{"timeouts": map[string]any{"quota": "3s"}},
	}})
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}}}
	if _, err := kube.Client.CoreV1().ResourceQuotas(s.namespace).Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	id := s.build(s.Nodes[0], "quota", "FROM base\nRUN true\n")
	b := s.await(s.Nodes[1], id)
	t.Logf("%s: %s", b.Blame, b.Message)
	if b.Phase != imagebuilderv1.Phase_PHASE_FAILED || b.Blame != imagebuilderv1.Blame_BLAME_QUOTA || !strings.Contains(b.Message, "quota") {
		t.Errorf("%s, %s: %s", b.Phase, b.Blame, b.Message)
	}
	if names := s.tidy(); len(names) != 0 {
		t.Errorf("pods %v", names)
	}
}

// Test_Kubelet_NodeGone simulates the loss of the machine of a pod: its kubelet and its containers
// are killed, and the API gets no report. Then the test marks the machine as out of service, as
// operators and clouds do, and the next attempt waits for a machine and succeeds. Kubernetes itself
// deletes no pods while it gets no heartbeat from any machine, and this cluster has only one.
func Test_Kubelet_NodeGone(t *testing.T) {
	s := newInstall(t, installOptions{})
	gate := newGate(t)
	id := s.build(s.Nodes[0], "gone", "FROM base\nRUN echo gone-begins && wget -q -O- "+gate.url+"\n")
	gate.await()
	s.runs(s.Nodes[1], id, " gone-begins\n")
	pod := s.podOf(id, 1)
	kube.Kubelet.Kill()
	t.Cleanup(func() { mustRecover(t) })
	if err := kube.KillContainers(t.Context(), pod); err != nil {
		t.Error(err)
	}
	if err := kube.OutOfService(t.Context(), true); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, 3*time.Minute, "there is a second pod", func() bool { return s.podOf(id, 2) != nil })
	if err := kube.OutOfService(t.Context(), false); err != nil {
		t.Error(err)
	}
	if err := kube.Kubelet.Start(); err != nil {
		t.Fatal(err)
	}
	b := s.succeeded(s.Nodes[1], id)
	a := b.Attempts[0]
	t.Logf("the first attempt: %s, %s", a.Blame, a.Message)
	if len(b.Attempts) != 2 || a.Blame != imagebuilderv1.Blame_BLAME_INFRASTRUCTURE || !strings.Contains(a.Message, "lost") {
		t.Errorf("%d attempts, the first: %s, %s", len(b.Attempts), a.Blame, a.Message)
	}
	if log := s.log(s.Nodes[2], id); !strings.Contains(log, " gone-begins\n") || !strings.Contains(log, " through the gate\n") {
		t.Errorf("the log: %s", log)
	}
	s.tidy()
}

// mustRecover starts the kubelet, if a test has killed it, and removes the taint of the node.
func mustRecover(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if !kube.Kubelet.Running() {
		if err := kube.Kubelet.Start(); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(kube.OutOfService(ctx, false), kube.AwaitNode(ctx)); err != nil {
		t.Error(err)
	}
}
