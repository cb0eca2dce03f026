//go:build kubernetes

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/image-builder-ha/image-builder/test/harness"
)

// bootTimeout is the timeout for the start of a cluster. On an idle machine, the start takes some
// seconds.
const bootTimeout = 4 * time.Minute

// Cluster is a running Kubernetes cluster.
type Cluster struct {
	// Dir is the folder of its files.
	Dir string
	// Binary is the path of the static binary of this service.
	Binary string
	// Config and Client have the rights of an administrator.
	Config *rest.Config
	Client kubernetes.Interface

	Etcd, APIServer, ControllerManager, Scheduler, Containerd, Kubelet, Kwok *Process
}

// inner boots the cluster in the namespaces and runs the tests.
func inner(kwokStages []byte, run func(*Cluster) int) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
	defer cancel()
	dir := os.Getenv(dirVar)
	c := &Cluster{Dir: dir, Binary: filepath.Join(dir, "image-builder")}
	// Tests start nodes from the same binary as pods.
	if err := os.Setenv(harness.BinaryVar, c.Binary); err != nil {
		return 0, err
	}
	boot := func() error { return c.boot(ctx, os.Getenv(cgroupVar)) }
	if kwokStages != nil {
		boot = func() error { return c.bootSimulated(ctx, kwokStages) }
	}
	if err := boot(); err != nil {
		return 0, errors.Join(err, c.logTails())
	}
	return run(c), nil
}

func (c *Cluster) boot(ctx context.Context, cgroup string) error {
	if err := c.prepare(); err != nil {
		return err
	}
	if err := writeSettings(c.Dir, cgroup); err != nil {
		return err
	}
	c.programs()
	for _, p := range []*Process{c.Etcd, c.APIServer, c.Containerd} {
		if err := p.Start(); err != nil {
			return err
		}
	}
	imported := make(chan error, 1)
	go func() { imported <- c.importImages(ctx) }()
	err := c.bootControl(ctx)
	if err = errors.Join(err, <-imported); err != nil {
		return err
	}
	if err := c.Kubelet.Start(); err != nil {
		return err
	}
	return c.await(ctx, "the node is ready", c.nodeReady)
}

// prepare makes the network, the certificates and the kubeconfig files.
func (c *Cluster) prepare() error {
	if err := network(); err != nil {
		return err
	}
	if err := makePKI(c.Dir); err != nil {
		return err
	}
	return c.writeKubeconfigs()
}

// bootControl waits for the API server, and starts the controller manager and the scheduler.
func (c *Cluster) bootControl(ctx context.Context) (err error) {
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig("admin")); err != nil {
		return err
	}
	c.Config.QPS, c.Config.Burst = 200, 400
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	if err := c.await(ctx, "the API server is ready", c.apiReady); err != nil {
		return err
	}
	for _, p := range []*Process{c.ControllerManager, c.Scheduler} {
		if err := p.Start(); err != nil {
			return err
		}
	}
	return c.await(ctx, "there is a default service account", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// programs sets the commands of all processes.
func (c *Cluster) programs() {
	file := func(name string) string { return filepath.Join(c.Dir, name) }
	c.Etcd = newProcess(c.Dir, "etcd", "/usr/bin/etcd", "--data-dir", file("etcd"), "--unsafe-no-fsync")
	c.APIServer = newProcess(c.Dir, "kube-apiserver", programFile("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379", "--secure-port=443", "--bind-address=0.0.0.0", "--advertise-address="+Address, "--endpoint-reconciler-type=none",
		"--tls-cert-file="+file("apiserver.crt"), "--tls-private-key-file="+file("apiserver.key"), "--client-ca-file="+file("ca.crt"),
		"--service-account-key-file="+file("sa.key"), "--service-account-signing-key-file="+file("sa.key"), "--service-account-issuer=https://kubernetes.default.svc",
		"--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--allow-privileged=true",
		"--kubelet-client-certificate="+file("apiserver-kubelet.crt"), "--kubelet-client-key="+file("apiserver-kubelet.key"),
		"--kubelet-certificate-authority="+file("ca.crt"), "--kubelet-preferred-address-types=Hostname")
	control := func(name, config string, more ...string) *Process {
		k := c.kubeconfig(config)
		return newProcess(c.Dir, name, programFile(name), append([]string{
			"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k,
			"--bind-address=127.0.0.1", "--cert-dir=" + file(name), "--leader-elect=false",
		}, more...)...)
	}
	c.ControllerManager = control("kube-controller-manager", "controller-manager", "--service-account-private-key-file="+file("sa.key"), "--root-ca-file="+file("ca.crt"),
		"--use-service-account-credentials=true", "--kube-api-qps=500", "--kube-api-burst=1000", "--node-monitor-period=1s", "--node-monitor-grace-period=20s")
	c.Scheduler = control("kube-scheduler", "scheduler")
	c.Containerd = newProcess(c.Dir, "containerd", "/usr/bin/containerd", "--config", file("containerd.toml"))
	c.Kubelet = newProcess(c.Dir, "kubelet", programFile("kubelet"), "--config="+file("kubelet.yaml"), "--kubeconfig="+c.kubeconfig("kubelet"),
		"--root-dir="+file("kubelet"), "--cert-dir="+file("kubelet-certs"), "--hostname-override="+nodeName, "--node-ip="+Address)
}

// network adds the addresses of the machine to the namespace. Pods get addresses from a bridge,
// which the CNI plugin makes for the first pod.
func network() error {
	commands := []string{
		"link set lo up", "addr add " + serviceIP + "/32 dev lo",
		"link add node0 type veth peer name node1", "addr add " + Address + "/24 dev node0", "link set node0 up", "link set node1 up",
	}
	for _, a := range HostAddresses {
		commands = append(commands, "addr add "+a+"/24 dev node0")
	}
	for _, args := range commands {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return nil
}

func (c *Cluster) apiReady(ctx context.Context) error {
	_, err := c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err
}

// nodeReady returns nil if the kubelet is healthy and the API reports a ready node.
func (c *Cluster) nodeReady(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10248/healthz", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	n, err := c.Client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue && len(n.Spec.Taints) == 0 {
			return nil
		}
	}
	return fmt.Errorf("conditions %v, taints %v", n.Status.Conditions, n.Spec.Taints)
}

// AwaitNode waits until the node is ready, for example after a restart of its kubelet.
func (c *Cluster) AwaitNode(ctx context.Context) error {
	return c.await(ctx, "the node is ready", c.nodeReady)
}

// AwaitAPI waits until the API server is ready.
func (c *Cluster) AwaitAPI(ctx context.Context) error {
	return c.await(ctx, "the API server is ready", c.apiReady)
}

// await polls until holds returns nil.
func (c *Cluster) await(ctx context.Context, what string, holds func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := holds(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it is not true that %s: %w", what, err)
		case <-tick.C:
		}
	}
}

// logTails returns the last lines of all logs as an error.
func (c *Cluster) logTails() error {
	var errs []error
	for _, p := range []*Process{c.Etcd, c.APIServer, c.ControllerManager, c.Scheduler, c.Containerd, c.Kubelet, c.Kwok} {
		if p != nil && p.cmd != nil {
			errs = append(errs, fmt.Errorf("the end of the log of %s (it runs: %v):\n%s", p.name, p.Running(), p.Log(15)))
		}
	}
	return errors.Join(errs...)
}
