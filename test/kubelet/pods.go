//go:build kubernetes

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// PodDir is the folder of a pod's volumes on this machine.
func (c *Cluster) PodDir(p *corev1.Pod) string {
	return filepath.Join(c.Dir, "kubelet", "pods", string(p.UID))
}

// Roots are the root file systems of a pod's containers of that name that run.
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

// KillContainers ends the processes of a pod by SIGKILL, as a power failure
// does. A kubelet that runs would start some of them again.
func (c *Cluster) KillContainers(ctx context.Context, p *corev1.Pod) error {
	var errs []error
	for _, s := range append(p.Status.ContainerStatuses, p.Status.InitContainerStatuses...) {
		if _, id, ok := strings.Cut(s.ContainerID, "://"); ok && s.State.Running != nil {
			errs = append(errs, c.ctr(ctx, "-n", "k8s.io", "tasks", "kill", "--all", "--signal", "SIGKILL", id))
		}
	}
	return errors.Join(errs...)
}
