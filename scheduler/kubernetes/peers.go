package kubernetes

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// PeerPort is the name of the service's port for connections between nodes.
const PeerPort = "peer"

// Peers returns the addresses (host:port) of the pods behind a headless service. It includes pods
// that are not ready, because a cluster that forms is not ready yet. The service needs
// publishNotReadyAddresses and a port named peer. The account needs to list endpointslices in the
// namespace.
func Peers(ctx context.Context, client kubernetes.Interface, namespace, service string) ([]string, error) {
	var out []string
	opts := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service, Limit: 100}
	for {
		list, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("list the endpoints of the service %s/%s: %w", namespace, service, err)
		}
		for i := range list.Items {
			out = append(out, peersOf(&list.Items[i])...)
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			slices.Sort(out)
			return slices.Compact(out), nil
		}
	}
}

// peersOf returns the addresses of one slice. It is pure. It includes pods that are terminating,
// because they serve requests until they are gone.
func peersOf(s *discoveryv1.EndpointSlice) (out []string) {
	for _, p := range s.Ports {
		if p.Port == nil || p.Name == nil || *p.Name != PeerPort {
			continue
		}
		for _, e := range s.Endpoints {
			for _, a := range e.Addresses {
				out = append(out, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
			}
		}
	}
	return out
}
