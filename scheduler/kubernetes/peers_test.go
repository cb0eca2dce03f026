//go:build kubernetes

package kubernetes_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
)

// Test_API_Peers finds the pods of a headless service that are not ready, in all slices, with only
// the right to list them.
func Test_API_Peers(t *testing.T) {
	a := startAPI(t)
	yes, no := true, false
	peer, port, other := kubernetes.PeerPort, int32(7800), "grpc"
	slice := func(name, service string, kind discoveryv1.AddressType, ready *bool, addresses ...string) {
		s := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: kind, Ports: []discoveryv1.EndpointPort{{Name: &other, Port: new(int32)}, {Name: &peer, Port: &port}},
		}
		*s.Ports[0].Port = 8080
		for _, x := range addresses {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{x}, Conditions: discoveryv1.EndpointConditions{Ready: ready}})
		}
		if _, err := a.client.DiscoveryV1().EndpointSlices(namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	slice("nodes-1", "nodes", discoveryv1.AddressTypeIPv4, &no, "10.1.0.2", "10.1.0.1")
	slice("nodes-2", "nodes", discoveryv1.AddressTypeIPv6, &yes, "fd00::1")
	slice("other-1", "other", discoveryv1.AddressTypeIPv4, &yes, "10.1.0.9")

	rules := []rbacv1.PolicyRule{{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list"}}}
	limited := a.account(t, "peers", rules)
	got, err := kubernetes.Peers(t.Context(), limited, namespace, "nodes")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"10.1.0.1:7800", "10.1.0.2:7800", "[fd00::1]:7800"}, got); d != "" {
		t.Error(d)
	}
	if got, err := kubernetes.Peers(t.Context(), limited, namespace, "nobody"); err != nil || len(got) != 0 {
		t.Errorf("a service without pods: %v, %v", got, err)
	}
	none := a.account(t, "none", nil)
	if _, err := kubernetes.Peers(t.Context(), none, namespace, "nodes"); !apierrors.IsForbidden(err) {
		t.Errorf("without the right: %v", err)
	}
}
