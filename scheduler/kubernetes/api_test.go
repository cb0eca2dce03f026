//go:build kubernetes

package kubernetes_test

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_API_Admits checks that a real apiserver accepts the pods of all profiles.
func Test_API_Admits(t *testing.T) {
	a := startAPI(t)
	reg := &registrytest.Registry{Addr: "reg.example"}
	for name, change := range map[string]func(*kubernetes.Options){
		"rootless":   func(*kubernetes.Options) {},
		"userns":     func(o *kubernetes.Options) { o.Pod.Profile = kubernetes.UserNS },
		"privileged": func(o *kubernetes.Options) { o.Pod.Profile = kubernetes.Privileged },
		"everything": func(o *kubernetes.Options) {
			o.Pod.ImagePullPolicy, o.Pod.ImagePullSecrets = corev1.PullAlways, []string{"pull"}
			o.Pod.BuildKit.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourceEphemeralStorage: resource.MustParse("1Gi")}
			o.Pod.Tolerations = []corev1.Toleration{{Key: "builds", Operator: corev1.TolerationOpExists}}
			o.Pod.NodeSelector = map[string]string{"pool": "builds"}
			o.Pod.StateSize = resource.MustParse("1Gi")
			o.Pod.Patch = []byte("spec:\n  containers:\n  - name: worker\n    env: [{name: X, value: one}]\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClusterOn(t, a.client)
			r := newRuntime(t, c, "node-a", reg.Addr, change)
			w := copyOf(reg, "0193a1b2-7c00-7000-8000-"+name, "sha256:"+strings.Repeat("a", 64))
			w.BaseRef = reg.Addr + "/base:1"
			w.Source = &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{}}}
			ctx, cancel := context.WithCancel(testContext(t))
			x := start(ctx, r, w, newSink())
			admitted := make(chan *corev1.Secret, 1)
			go func() { admitted <- c.await(ctx, w.Name()) }()
			select {
			case <-admitted:
			case <-x.done:
				t.Fatalf("not admitted: %v", x.err)
			}
			testkit.Eventually(t, 20*time.Second, "the pod may be scheduled", func() bool { return len(c.pod(w.Name()).Spec.SchedulingGates) == 0 })
			cancel()
			_, _ = x.wait(t)
			if err := r.Stop(testContext(t), w.Name()); err != nil || c.pod(w.Name()) != nil {
				t.Errorf("the pod is there still: %v", err)
			}
		})
	}
}

// Test_API_Run runs two builds while the apiserver is down. The worker reports the end of one
// build; the watch reports the end of the other, once the apiserver is back.
func Test_API_Run(t *testing.T) {
	a := startAPI(t)
	reg := startRegistry(t)
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 2, 1<<18))
	c := newClusterOn(t, a.client)
	r := newRuntime(t, c, "node-a", reg.Addr, kubernetes.FastRetries)
	ctx := testContext(t)

	// Both pods exist, and neither has started.
	heard, unheard := copyOf(reg, "heard", digest), copyOf(reg, "unheard", digest)
	x, y := start(ctx, r, heard, newSink()), start(ctx, r, unheard, newSink())
	for _, w := range []string{heard.Name(), unheard.Name()} {
		if c.await(ctx, w) == nil {
			t.Fatalf("%s has no Secret", w)
		}
	}
	c.start(c.pod(heard.Name()))
	if out, err := x.wait(t); err != nil || out.Digest != digest {
		t.Fatalf("Run: %+v, %v", out, err)
	}
	a.stopServer()
	a.startServer()
	a.ready()
	c.status(unheard.Name(), func(s *corev1.PodStatus) {
		s.Phase = corev1.PodSucceeded
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Message: `{"repository":"r","digest":"` + digest + `","sizeBytes":1}`,
		}}}}
	})
	if out, err := y.wait(t); err != nil || out.Digest != digest {
		t.Errorf("Run over a restart of the API: %+v, %v", out, err)
	}
}

// Test_API_DeletedMeanwhile checks that the runtime notices the deletion of a pod while the watch
// was broken.
func Test_API_DeletedMeanwhile(t *testing.T) {
	a := startAPI(t)
	reg := &registrytest.Registry{Addr: "reg.example"}
	c := newClusterOn(t, a.client)
	r := newRuntime(t, c, "node-a", reg.Addr, kubernetes.FastRetries)
	w := copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64))
	x := start(testContext(t), r, w, newSink())
	if c.await(t.Context(), w.Name()) == nil {
		t.Fatal("no Secret")
	}
	a.stopServer()
	a.startServer()
	a.ready()
	if err := a.client.CoreV1().Pods(namespace).Delete(t.Context(), w.Name(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.wait(t); err == nil || !strings.Contains(err.Error(), w.Name()) {
		t.Errorf("Run: %v", err)
	}
	// Without its pod, a Secret is garbage. It must not be used for a later pod of the same name:
	// real UIDs differ.
	old, err := a.client.CoreV1().Secrets(namespace).Get(t.Context(), w.Name(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	y := start(ctx, r, w, newSink())
	testkit.Eventually(t, 20*time.Second, "there is a new Secret", func() bool {
		s, err := a.client.CoreV1().Secrets(namespace).Get(ctx, w.Name(), metav1.GetOptions{})
		return err == nil && s.UID != old.UID
	})
	cancel()
	_, _ = y.wait(t)
}

// Test_API_UID checks that exactly the intended pod is deleted or labelled.
func Test_API_UID(t *testing.T) {
	a := startAPI(t)
	pods := a.client.CoreV1().Pods(namespace)
	create := func() *corev1.Pod {
		p, err := pods.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"image-builder/install": "test"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	former := create()
	if err := pods.Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	now := create()
	r := newRuntime(t, newClusterOn(t, a.client), "node-a", "reg.example")
	if err := r.Remove(t.Context(), former); err != nil {
		t.Errorf("delete a pod that is no more: %v", err)
	}
	if p, err := pods.Get(t.Context(), "p", metav1.GetOptions{}); err != nil || p.UID != now.UID {
		t.Errorf("the pod of the same name was deleted: %v", err)
	}
	if err := kubernetes.Label(t.Context(), a.client, former, "node-b", 9); !apierrors.IsInvalid(err) {
		t.Errorf("label a pod that is no more: %v", err)
	}
	if err := kubernetes.Label(t.Context(), a.client, now, "node-b", 9); err != nil {
		t.Errorf("label a pod: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.Stop(ctx, "p"); err != nil {
		t.Error(err)
	}
	if _, err := pods.Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod is there still: %v", err)
	}
}
