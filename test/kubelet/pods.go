//go:build kubernetes

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

// PodDir returns the folder of the kubelet for a pod, which has its volumes.
func (c *Cluster) PodDir(p *corev1.Pod) string {
	return filepath.Join(c.Dir, "kubelet", "pods", string(p.UID))
}

// Roots returns the root file systems of the running containers of a pod that have the given name.
func (c *Cluster) Roots(p *corev1.Pod, container string) ([]string, error) {
	var roots []string
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if s.Name != container || s.State.Running == nil {
			continue
		}
		_, id, ok := strings.Cut(s.ContainerID, "://")
		if !ok {
			return nil, fmt.Errorf("the container %s of %s has the id %q", container, p.Name, s.ContainerID)
		}
		roots = append(roots, filepath.Join("/run/containerd/io.containerd.runtime.v2.task/k8s.io", id, "rootfs"))
	}
	return roots, nil
}

// KillContainers ends the processes of a pod by SIGKILL, to simulate a power failure. A running
// kubelet would start some of them again.
func (c *Cluster) KillContainers(ctx context.Context, p *corev1.Pod) error {
	var errs []error
	for _, s := range append(p.Status.ContainerStatuses, p.Status.InitContainerStatuses...) {
		if _, id, ok := strings.Cut(s.ContainerID, "://"); ok && s.State.Running != nil {
			errs = append(errs, c.ctr(ctx, "-n", "k8s.io", "tasks", "kill", "--all", "--signal", "SIGKILL", id))
		}
	}
	return errors.Join(errs...)
}

// OutOfService adds the taint out-of-service to the node, or removes it. With this taint operators
// and clouds mark a lost machine, and Kubernetes deletes its pods.
func (c *Cluster) OutOfService(ctx context.Context, out bool) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		n, err := c.Client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
		if out {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
		}
		_, err = c.Client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
		return err
	})
}
