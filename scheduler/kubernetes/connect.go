package kubernetes

import (
	"fmt"
	"os"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Client is a client of the Kubernetes API.
type Client = kubernetes.Interface

// Connect creates a client from a kubeconfig file, or with the service account of the pod if
// kubeconfig is empty. qps and burst limit the requests of this process; zero means 20 and 40.
func Connect(kubeconfig string, qps float32, burst int) (kubernetes.Interface, error) {
	var c *rest.Config
	var err error
	if kubeconfig == "" {
		if c, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("connect to Kubernetes as a pod (outside of a pod, configure a kubeconfig file): %w", err)
		}
	} else if c, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return nil, fmt.Errorf("connect to Kubernetes with the kubeconfig file %s: %w", kubeconfig, err)
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

// OwnNamespace returns the namespace of the pod that this process runs in, or "" if it does not run
// in a pod or the pod has no service account.
func OwnNamespace() string {
	raw, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
