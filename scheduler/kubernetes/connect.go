package kubernetes

import (
	"fmt"
	"os"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Client is Kubernetes' API.
type Client = kubernetes.Interface

// Connect makes a client from a kubeconfig file, or as a pod of the cluster if
// that is empty. qps and burst bound the requests of this process; 20 and 40
// if zero.
func Connect(kubeconfig string, qps float32, burst int) (kubernetes.Interface, error) {
	var c *rest.Config
	var err error
	if kubeconfig == "" {
		if c, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("connect to Kubernetes as a pod (give a kubeconfig file if this is none): %w", err)
		}
	} else if c, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return nil, fmt.Errorf("connect to Kubernetes by the kubeconfig file %s: %w", kubeconfig, err)
	}
	setDefault(&qps, 20)
	setDefault(&burst, 40)
	c.QPS, c.Burst, c.UserAgent = qps, burst, "image-builder"
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	return client, nil
}

// OwnNamespace is the namespace of the pod that this process runs in, "" if it
// runs in none or has no account there.
func OwnNamespace() string {
	raw, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
