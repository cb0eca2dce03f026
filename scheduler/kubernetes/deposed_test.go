package kubernetes_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// fencedSink is a log that the next owner has fenced.
type fencedSink struct{ *sink }

func (fencedSink) Write([]byte) (int, error) { return 0, logs.ErrFenced }

// Test_Run_Deposed checks that an owner that cannot continue, because of its log or an unreachable
// worker, does not delete the pod. It may have been deposed while it was paused, and another node
// may follow the pod. The caller of Run knows whether it is still the owner, and then stops the
// pod.
func Test_Run_Deposed(t *testing.T) {
	t.Run("its log is fenced", func(t *testing.T) {
		reg, c := startRegistry(t), newCluster(t)
		c.startKubelet()
		w := copyOf(reg, "b1", reg.Push(t, "team/app:1", registrytest.RandomImage(t, 2, 1<<18)))
		_, err := newRuntime(t, c, "node-a", reg.Addr).Run(testContext(t), w, fencedSink{newSink()})
		if !errors.Is(err, logs.ErrFenced) {
			t.Errorf("the former owner got %v", err)
		}
		if c.pod(w.Name()) == nil {
			t.Error("the former owner deleted the pod")
		}
	})
	t.Run("it was paused for long", func(t *testing.T) {
		reg, c := &registrytest.Registry{Addr: "reg.example"}, newCluster(t)
		w := copyOf(reg, "b1", "sha256:"+strings.Repeat("a", 64))
		r := newRuntime(t, c, "node-a", reg.Addr, func(o *kubernetes.Options) {
			o.SilentTimeout = time.Millisecond
			o.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
		})
		x := start(testContext(t), r, w, newSink())
		c.await(t.Context(), w.Name())
		testkit.Eventually(t, 20*time.Second, "the worker is given up", func() bool {
			c.status(w.Name(), func(st *corev1.PodStatus) {
				st.PodIP, st.Message = "10.0.0.1", st.Message+"."
				st.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
			})
			select {
			case <-x.done:
				return true
			default:
				return false
			}
		})
		_, err := x.wait(t)
		mustFail(t, err, builds.BlameInfrastructure, w.Name(), "out of reach")
		if c.pod(w.Name()) == nil {
			t.Error("the former owner deleted the pod")
		}
	})
}
