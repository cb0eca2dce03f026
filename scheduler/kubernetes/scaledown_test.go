package kubernetes

import (
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func Test_ScaledAway(t *testing.T) {
	set := func(replicas, first int32, deleted bool) *appsv1.StatefulSet {
		s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "ib-x"}, Spec: appsv1.StatefulSetSpec{Replicas: &replicas}}
		if first > 0 {
			s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: first}
		}
		if deleted {
			s.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			s.Finalizers = []string{"test/keeps"}
		}
		return s
	}
	for _, c := range []struct {
		what string
		set  *appsv1.StatefulSet
		pod  string
		want bool
		err  bool
	}{
		{"the last of five that become four", set(4, 0, false), "ib-x-4", true, false},
		{"one before", set(4, 0, false), "ib-x-3", false, false},
		{"numbers that begin later", set(4, 3, false), "ib-x-6", false, false},
		{"numbers that begin later, the last", set(4, 3, false), "ib-x-7", true, false},
		{"a set that is deleted", set(1, 0, true), "ib-x-4", false, false},
		{"a set that is stopped", set(0, 0, false), "ib-x-4", false, false},
		{"no set", set(1, 0, false), "other-4", false, false},
		{"a pod of no set", set(1, 0, false), "ib-x-last", false, true},
		{"a name without number", set(1, 0, false), "x", false, true},
		{"a number that is too large", set(1, 0, false), "ib-x-99999999999", false, true},
	} {
		got, err := ScaledAway(t.Context(), fake.NewSimpleClientset(c.set), "ns", c.pod)
		if got != c.want || (err != nil) != c.err {
			t.Errorf("%s: %v, %v", c.what, got, err)
		}
	}
	refuses := fake.NewSimpleClientset(set(1, 0, false))
	refuses.PrependReactor("get", "statefulsets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no")
	})
	if away, err := ScaledAway(t.Context(), refuses, "ns", "ib-x-4"); away || err == nil {
		t.Errorf("of an API that refuses: %v, %v", away, err)
	}
}
