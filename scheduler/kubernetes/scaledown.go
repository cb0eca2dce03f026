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

// ScaledAway reports whether a pod of a stateful set ends for good, because the set was scaled down
// and no longer has a pod of that number. It returns false if the set is deleted or scaled to zero,
// because the pod may come back later. It blocks on a request to the API. The account needs to get
// the stateful set.
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
		return false, fmt.Errorf("read the number of replicas of the stateful set %s/%s: %w", namespace, name, err)
	}
	return scaledAway(set, number), nil
}

// scaledAway makes the decision of ScaledAway. It is pure.
func scaledAway(set *appsv1.StatefulSet, number int) bool {
	replicas, first := 1, 0 // the defaults of the API
	if set.Spec.Replicas != nil {
		replicas = int(*set.Spec.Replicas)
	}
	if set.Spec.Ordinals != nil {
		first = int(set.Spec.Ordinals.Start)
	}
	return set.DeletionTimestamp == nil && replicas > 0 && number >= first+replicas
}

// ordinal splits the pod name of a stateful set into the name of the set and the number.
func ordinal(pod string) (set string, number int, err error) {
	if i := strings.LastIndexByte(pod, '-'); i > 0 {
		if n, err := strconv.ParseUint(pod[i+1:], 10, 31); err == nil {
			return pod[:i], int(n), nil
		}
	}
	return "", 0, fmt.Errorf("the node name %q is not the name of a pod of a stateful set (NAME-NUMBER)", pod)
}
