package kubernetes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/worker"
)

const namespace = "builds"

// cluster is an API without a scheduler, and a kubelet that runs the real worker and the real
// registry proxy of each pod in this process.
type cluster struct {
	t        *testing.T
	client   client.Interface
	fake     *fake.Clientset // same as client, unless client is that of a real API
	buildkit string          // address of a daemon
	linger   time.Duration
	job      func(*podapi.Job)       // changes the job that workers receive
	tells    func(*corev1.PodStatus) // changes the first report of a pod's end
	ctx      context.Context
	tasks    sync.WaitGroup

	mu    sync.Mutex
	uids  int
	addrs map[string]string // of workers, by ip:port of their pods
	kill  map[string]context.CancelFunc
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	f := fake.NewClientset()
	c := newClusterOn(t, f)
	c.fake = f
	// The fake does not assign UIDs.
	c.fake.PrependReactor("create", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if obj, ok := a.(clienttesting.CreateAction).GetObject().(metav1.Object); ok && obj.GetUID() == "" {
			c.uids++
			obj.SetUID(types.UID(fmt.Sprintf("uid-%d", c.uids)))
			obj.SetCreationTimestamp(metav1.Now())
		}
		return false, nil, nil
	})
	return c
}

// newClusterOn returns a cluster over an API.
func newClusterOn(t *testing.T, api client.Interface) *cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &cluster{t: t, client: api, ctx: ctx, linger: time.Minute, addrs: map[string]string{}, kill: map[string]context.CancelFunc{}}
	t.Cleanup(func() {
		cancel()
		c.tasks.Wait()
	})
	return c
}

// startKubelet runs every new pod.
func (c *cluster) startKubelet() {
	c.t.Helper()
	w, err := c.client.CoreV1().Pods(namespace).Watch(c.ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.tasks.Go(func() {
		defer w.Stop()
		for {
			select {
			case <-c.ctx.Done():
				return
			case ev := <-w.ResultChan():
				p, ok := ev.Object.(*corev1.Pod)
				if !ok {
					return
				}
				switch ev.Type {
				case "ADDED":
					c.start(p)
				case "DELETED":
					c.stop(p.Name)
				}
			}
		}
	})
}

func (c *cluster) start(p *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithCancel(c.ctx)
	c.kill[p.Name] = cancel
	ip := fmt.Sprintf("10.0.0.%d", len(c.kill))
	c.tasks.Go(func() {
		defer cancel()
		c.run(ctx, p, ip)
	})
}

// stop ends the containers of a pod, as its deletion does.
func (c *cluster) stop(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel := c.kill[name]; cancel != nil {
		cancel()
	}
}

// run runs a pod from start to end.
func (c *cluster) run(ctx context.Context, p *corev1.Pod, ip string) {
	log := slog.New(slog.DiscardHandler)
	secret := c.await(ctx, p.Name)
	if secret == nil {
		return
	}
	job, conf := &podapi.Job{}, &proxy.Config{}
	if json.Unmarshal(secret.Data["job.json"], job) != nil || json.Unmarshal(secret.Data["proxy.json"], conf) != nil {
		c.t.Error("the Secret holds something else")
		return
	}
	dir, err := os.MkdirTemp(c.t.TempDir(), "pod")
	if err != nil {
		c.t.Error(err)
		return
	}
	lp, errP := net.Listen("tcp", "127.0.0.1:0")
	lw, errW := net.Listen("tcp", "127.0.0.1:0")
	if errP != nil || errW != nil {
		c.t.Error(errP, errW)
		return
	}
	job.ProxyAddr, conf.Listen = lp.Addr().String(), lp.Addr().String()
	job.Dir, job.TerminationPath = dir, filepath.Join(dir, "termination")
	job.Linger = c.linger
	if c.buildkit != "" {
		job.BuildKit = c.buildkit
	}
	if c.job != nil {
		c.job(job)
	}
	px, err := proxy.New(conf, log)
	if err != nil {
		c.t.Error(err)
		return
	}
	sidecars, end := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = px.Serve(sidecars, lp)
	}()
	c.mu.Lock()
	c.addrs[ip+":8443"] = lw.Addr().String()
	c.mu.Unlock()
	c.status(p.Name, func(s *corev1.PodStatus) {
		s.Phase, s.PodIP = corev1.PodRunning, ip
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	})
	err = worker.Serve(ctx, job, lw, log)
	end()
	<-done
	message, _ := os.ReadFile(job.TerminationPath)
	c.status(p.Name, func(s *corev1.PodStatus) {
		t := &corev1.ContainerStateTerminated{Reason: "Completed", Message: string(message), FinishedAt: metav1.Now()}
		if s.Phase = corev1.PodSucceeded; err != nil {
			s.Phase, t.ExitCode, t.Reason = corev1.PodFailed, 1, "Error"
		}
		s.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Terminated: t}}}
		if c.tells != nil {
			c.tells(s)
		}
	})
}

// await waits for the Secret of a pod, as the mount of its volumes does.
func (c *cluster) await(ctx context.Context, name string) *corev1.Secret {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := c.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return s
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// status changes the status of a pod.
func (c *cluster) status(name string, change func(*corev1.PodStatus)) {
	pods := c.client.CoreV1().Pods(namespace)
	p, err := pods.Get(context.Background(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return
	}
	if err == nil {
		p = p.DeepCopy()
		change(&p.Status)
		_, err = pods.UpdateStatus(context.Background(), p, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		c.t.Errorf("change the status of %s: %v", name, err)
	}
}

func (c *cluster) pod(name string) *corev1.Pod {
	p, err := c.client.CoreV1().Pods(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return p
}

// dial connects to the worker of a pod.
func (c *cluster) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.mu.Lock()
	real := c.addrs[addr]
	c.mu.Unlock()
	var d net.Dialer
	return d.DialContext(ctx, network, real)
}
