//go:build kubernetes

package kubelet_test

import (
	"os"
	"testing"

	"github.com/image-builder-ha/image-builder/test/kubelet"
)

// kube is the Kubernetes cluster of all tests.
var kube *kubelet.Cluster

func TestMain(m *testing.M) {
	os.Exit(kubelet.Main(func(c *kubelet.Cluster) int {
		kube = c
		return m.Run()
	}))
}
