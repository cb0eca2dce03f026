package kubernetes_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// flushSink is a log whose Flush is a function.
type flushSink struct {
	*sink
	flush func(context.Context) error
}

func (s flushSink) Flush(ctx context.Context) error { return s.flush(ctx) }

// Test_Run_Flush checks that a worker may end only once the next owner would find all of its
// output.
func Test_Run_Flush(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	c.startKubelet()
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	ended := func(name string) bool { return c.pod(name).Status.Phase == corev1.PodSucceeded }

	t.Run("late", func(t *testing.T) {
		w := copyOf(reg, "b1", digest)
		begun, stored := make(chan struct{}), make(chan struct{})
		x := start(testContext(t), newRuntime(t, c, "node-a", reg.Addr), w, flushSink{newSink(), func(context.Context) error {
			close(begun)
			<-stored
			return nil
		}})
		select {
		case <-begun:
		case <-x.done:
			t.Fatalf("Run returned before all was stored: %v", x.err)
		}
		if ended(w.Name()) {
			t.Error("the worker has ended before its output was stored")
		}
		close(stored)
		if out, err := x.wait(t); err != nil || out.Digest != digest {
			t.Errorf("Run: %+v, %v", out, err)
		}
		testkit.Eventually(t, 20*time.Second, "the pod has ended", func() bool { return ended(w.Name()) })
	})
	t.Run("not at all", func(t *testing.T) {
		w := copyOf(reg, "b2", digest)
		former := newSink()
		out, err := newRuntime(t, c, "node-a", reg.Addr).Run(testContext(t), w, flushSink{former, func(context.Context) error {
			return errors.New("the disk is full")
		}})
		if err != nil || out.Digest != digest {
			t.Errorf("Run: %+v, %v", out, err)
		}
		// The next owner finds nothing in the log, and everything in the pod.
		w.Epoch = 2
		s := newSink()
		if out, err := newRuntime(t, c, "node-b", reg.Addr).Run(testContext(t), w, s); err != nil || out.Digest != digest {
			t.Errorf("Run of the next owner: %+v, %v", out, err)
		}
		if s.text() != former.text() || strings.Contains(s.text(), "lost") {
			t.Errorf("the next owner got %q, the former one %q", s.text(), former.text())
		}
	})
}
