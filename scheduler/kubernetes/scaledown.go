package kubernetes

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// ScaledAway reports whether a pod of a stateful set ends for good: the set has
// been scaled so that it has no pod of that number. A set that is deleted or
// scaled to nothing says nothing about the one that comes after it. It waits
// for the API. The account needs to get the stateful set.
func ScaledAway(ctx context.Context, client kubernetes.Interface, namespace, pod string) (bool, error) {
	name, number, err := ordinal(pod)
	if err != nil {
		return false, err
	}
	set, err := client.AppsV1().StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask how many pods the stateful set %s/%s should have: %w", namespace, name, err)
	}
	return scaledAway(set, number), nil
}

// scaledAway is the decision of ScaledAway: pure.
func scaledAway(set *appsv1.StatefulSet, number int) bool {
	replicas, first := 1, 0 // the API's defaults
	if set.Spec.Replicas != nil {
		replicas = int(*set.Spec.Replicas)
	}
	if set.Spec.Ordinals != nil {
		first = int(set.Spec.Ordinals.Start)
	}
	return set.DeletionTimestamp == nil && replicas > 0 && number >= first+replicas
}

// ordinal splits the name of a stateful set's pod.
func ordinal(pod string) (set string, number int, err error) {
	if i := strings.LastIndexByte(pod, '-'); i > 0 {
		if n, err := strconv.ParseUint(pod[i+1:], 10, 31); err == nil {
			return pod[:i], int(n), nil
		}
	}
	return "", 0, fmt.Errorf("the node's name %q is not that of a stateful set's pod, NAME-NUMBER", pod)
}
