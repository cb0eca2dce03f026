//go:build kubernetes

package kwok_test

import (
	_ "embed"
	"os"
	"testing"

	"github.com/image-builder-ha/image-builder/test/kubelet"
)

// kube is the Kubernetes cluster of all tests.
var kube *kubelet.Cluster

//go:embed stages.yaml
var stages []byte

func TestMain(m *testing.M) {
	os.Exit(kubelet.MainSimulated(stages, func(c *kubelet.Cluster) int {
		kube = c
		return m.Run()
	}))
}
