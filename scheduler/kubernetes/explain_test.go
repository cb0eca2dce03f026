package kubernetes_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Run_Explained checks that, after a worker has reported an infrastructure failure, the owner
// waits for the reason that the kubelet reports a moment later.
func Test_Run_Explained(t *testing.T) {
	for name, says := range map[string]func(*corev1.PodStatus){
		"out of memory": func(s *corev1.PodStatus) {
			s.InitContainerStatuses = []corev1.ContainerStatus{{Name: "buildkit", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}}}
		},
		"evicted": func(s *corev1.PodStatus) {
			s.Phase, s.Reason, s.Message = corev1.PodFailed, "Evicted", `Usage of EmptyDir volume "state" exceeds the limit "1Gi". `
		},
	} {
		for _, adopted := range []bool{false, true} {
			if adopted {
				name += ", adopted"
			}
			t.Run(name, func(t *testing.T) {
				c := newCluster(t)
				c.job = func(j *podapi.Job) { j.Source = []byte("[]") } // the worker fails at once
				c.tells = func(s *corev1.PodStatus) { s.Phase = corev1.PodRunning }
				var asked atomic.Int32
				c.fake.PrependReactor("list", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
					if !a.(clienttesting.ListAction).GetListRestrictions().Fields.Empty() {
						asked.Add(1)
					}
					return false, nil, nil
				})
				w := copyOf(&registrytest.Registry{Addr: "reg.example"}, "b1", "sha256:aa")
				ctx, cancel := context.WithCancel(testContext(t))
				x := start(ctx, newRuntime(t, c, "node-a", "reg.example", kubernetes.FastRetries), w, newSink())
				c.await(ctx, w.Name())
				ended := func() bool {
					s := c.pod(w.Name()).Status.ContainerStatuses
					return len(s) == 1 && s[0].State.Terminated != nil
				}
				if adopted {
					cancel()
					_, _ = x.wait(t)
					c.linger = 1
					c.start(c.pod(w.Name()))
					testkit.Eventually(t, 20*time.Second, "the worker has ended", ended)
					w.Epoch = 2
					x = start(testContext(t), newRuntime(t, c, "node-b", "reg.example", kubernetes.FastRetries), w, newSink())
				} else {
					c.start(c.pod(w.Name()))
				}
				testkit.Eventually(t, 20*time.Second, "the owner reads the pod to explain its end", func() bool {
					select {
					case <-x.done:
						return true
					default:
						return asked.Load() > 2 && ended()
					}
				})
				c.status(w.Name(), says)
				_, err := x.wait(t)
				cancel()
				mustFail(t, err, builds.BlameQuota)
			})
		}
	}
}
