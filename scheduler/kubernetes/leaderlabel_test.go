//go:build kubernetes

package kubernetes_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8stypes "k8s.io/apimachinery/pkg/types"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
)

// Test_API_LeaderLabel moves the label between the pods of one stateful set, with the rights that
// the chart grants, and leaves the leader of another install alone.
func Test_API_LeaderLabel(t *testing.T) {
	a := startAPI(t)
	pods := a.client.CoreV1().Pods(namespace)
	yes := true
	add := func(name, set string, labels map[string]string) {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "apps/v1", Kind: "StatefulSet", Name: set, UID: k8stypes.UID(set), Controller: &yes},
			}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}
		if _, err := pods.Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	add("ib-0", "ib", map[string]string{"app": "x"})
	add("ib-1", "ib", nil)
	add("other-0", "other", map[string]string{kubernetes.LeaderLabel: "true"})
	limited := a.account(t, "labels", []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "patch"}}})
	for _, leads := range []string{"ib-0", "ib-1", "ib-1", "ib-0"} {
		if err := kubernetes.LabelLeader(t.Context(), limited, namespace, leads); err != nil {
			t.Fatal(err)
		}
		list, err := pods.List(t.Context(), metav1.ListOptions{LabelSelector: kubernetes.LeaderLabel + "=true"})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		if slices.Sort(names); !slices.Equal(names, []string{leads, "other-0"}) {
			t.Errorf("%s leads, labelled are %v", leads, names)
		}
	}
	if p, err := pods.Get(t.Context(), "ib-0", metav1.GetOptions{}); err != nil || p.Labels["app"] != "x" {
		t.Errorf("other labels: %v, %v", p.Labels, err)
	}
	if err := kubernetes.LabelLeader(t.Context(), limited, namespace, "ib-9"); !apierrors.IsNotFound(err) {
		t.Errorf("a pod that is not there: %v", err)
	}
	if err := kubernetes.LabelLeader(t.Context(), a.account(t, "none", nil), namespace, "ib-0"); !apierrors.IsForbidden(err) {
		t.Errorf("without rights: %v", err)
	}
}
