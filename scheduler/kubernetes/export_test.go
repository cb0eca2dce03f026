package kubernetes

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	client "k8s.io/client-go/kubernetes"
)

// DeadlineGrace is how much longer than its deadline a build is followed.
const DeadlineGrace = deadlineGrace

// FastRetries makes pauses short.
func FastRetries(o *Options) { o.retryBase = time.Millisecond }

// Remove deletes exactly this pod.
func (r *Runtime) Remove(ctx context.Context, p *corev1.Pod) error { return r.remove(ctx, p) }

// Label makes a node the owner of a pod.
func Label(ctx context.Context, c client.Interface, p *corev1.Pod, node string, epoch uint64) error {
	_, err := c.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, ownerPatch(p, &Options{Node: node}, epoch), metav1.PatchOptions{})
	return err
}
