package kubernetes

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// LeaderLabel is the label of the leader's pod. Its value is "true".
const LeaderLabel = "image-builder/leader"

// LabelLeader gives a pod the label of the leader, and removes the label from the other pods of the
// same owner, such as a stateful set. It blocks on requests to the API. The account needs to get,
// list and patch pods in the namespace.
func LabelLeader(ctx context.Context, client kubernetes.Interface, namespace, pod string) error {
	pods := client.CoreV1().Pods(namespace)
	own, err := pods.Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("label the leader's pod %s/%s: %w", namespace, pod, err)
	}
	set := func(name, value string) error {
		patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, LeaderLabel, value)
		if _, err := pods.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("label the pod %s/%s: %w", namespace, name, err)
		}
		return nil
	}
	former, err := pods.List(ctx, metav1.ListOptions{LabelSelector: LeaderLabel})
	if err != nil {
		return fmt.Errorf("find the pod of the former leader: %w", err)
	}
	owner := metav1.GetControllerOf(own)
	for i := range former.Items {
		p := &former.Items[i]
		if of := metav1.GetControllerOf(p); p.Name == pod || owner == nil || of == nil || of.UID != owner.UID {
			continue
		}
		if err := set(p.Name, "null"); err != nil {
			return err
		}
	}
	return set(pod, `"true"`)
}
