//go:build kubernetes

package kubernetes_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// way is a network that can be cut.
type way struct {
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (w *way) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	cut := w.cut
	w.mu.Unlock()
	if cut {
		return nil, errors.New("the network is cut")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, conn)
	return conn, nil
}

func (w *way) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// Test_API_Outage cuts a node off from the API, which restarts meanwhile. Afterwards, pods that
// ended or were deleted in that time get the right result, builds that started in that time get
// their pods, and the node reports the problem while it lasts.
func Test_API_Outage(t *testing.T) {
	a := startAPI(t)
	reg := &registrytest.Registry{Addr: "reg.example"}
	digest := "sha256:" + strings.Repeat("a", 64)
	w := &way{}
	config := rest.CopyConfig(a.config)
	config.Dial = w.dial
	cutOff, err := client.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	admin := newClusterOn(t, a.client)
	r := newRuntime(t, newClusterOn(t, cutOff), "node-a", reg.Addr, kubernetes.FastRetries)
	ctx := testContext(t)
	ended, deleted, late := copyOf(reg, "ended", digest), copyOf(reg, "deleted", digest), copyOf(reg, "late", digest)
	x, y := start(ctx, r, ended, newSink()), start(ctx, r, deleted, newSink())
	for _, name := range []string{ended.Name(), deleted.Name()} {
		testkit.Eventually(t, 20*time.Second, name+" may be scheduled", func() bool { p := admin.pod(name); return p != nil && len(p.Spec.SchedulingGates) == 0 })
	}
	if err := r.Trouble(); err != nil {
		t.Errorf("health problem while the API is available: %v", err)
	}

	w.set(true)
	testkit.Eventually(t, 20*time.Second, "the node reports that the API is unavailable", func() bool { return r.Trouble() != nil })
	late1, stop := context.WithCancel(ctx)
	defer stop()
	z := start(late1, r, late, newSink())
	a.stopServer()
	a.startServer()
	a.ready()
	admin.status(ended.Name(), func(s *corev1.PodStatus) {
		s.Phase = corev1.PodSucceeded
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Message: `{"repository":"r","digest":"` + digest + `","sizeBytes":1}`,
		}}}}
	})
	if err := a.client.CoreV1().Pods(namespace).Delete(ctx, deleted.Name(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]*run{"ended": x, "deleted": y, "late": z} {
		select {
		case <-x.done:
			t.Errorf("%s: Run returned while nothing could be known: %+v, %v", name, x.out, x.err)
		default:
		}
	}
	if p := admin.pod(late.Name()); p != nil {
		t.Error("a pod was created through a network that is cut")
	}

	w.set(false)
	if out, err := x.wait(t); err != nil || out.Digest != digest {
		t.Errorf("a build that ended while the API was away: %+v, %v", out, err)
	}
	_, err = y.wait(t)
	mustFail(t, err, builds.BlameInfrastructure, deleted.Name())
	testkit.Eventually(t, 20*time.Second, "the build that began while the API was away has its pod", func() bool { return admin.pod(late.Name()) != nil })
	stop()
	_, _ = z.wait(t)
}
