package kubernetes

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	client "k8s.io/client-go/kubernetes"
)

// DeadlineGrace is how long after its deadline a build is still followed.
const DeadlineGrace = deadlineGrace

// FastRetries makes the pauses between retries short.
func FastRetries(o *Options) { o.retryBase = time.Millisecond }

// Remove deletes exactly this pod, by its UID.
func (r *Runtime) Remove(ctx context.Context, p *corev1.Pod) error { return r.remove(ctx, p) }

// Waiting returns the number of pods that wait for a place under the limit.
func (r *Runtime) Waiting() int {
	r.pods.mu.Lock()
	defer r.pods.mu.Unlock()
	return len(r.pods.waiting)
}

// Label makes node the owner of a pod.
func Label(ctx context.Context, c client.Interface, p *corev1.Pod, node string, epoch uint64) error {
	_, err := c.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, ownerPatch(p, &Options{Node: node}, epoch), metav1.PatchOptions{})
	return err
}
