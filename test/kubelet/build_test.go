//go:build kubernetes

package kubelet_test

import (
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/kubelet"
)

// Test_Kubelet_Dockerfile builds a Dockerfile from git in a pod, with real nodes, a real BuildKit
// and a real container.
func Test_Kubelet_Dockerfile(t *testing.T) {
	s := newInstall(t, installOptions{})
	id := s.build(s.Nodes[0], "one", "FROM base\nRUN echo the-step-ran > /x && cat /x\n")
	b := s.succeeded(s.Nodes[1], id)
	log := s.log(s.Nodes[2], id)
	if !strings.Contains(log, " the-step-ran\n") || strings.Contains(log, "127.0.0.1:5000") {
		t.Errorf("the log: %s", log)
	}
	if len(b.Attempts) != 1 || s.reg.Digest(t, strings.TrimPrefix(b.Ref, s.reg.Addr+"/")) != b.Digest {
		t.Errorf("the build: %v", b)
	}
	if names := s.tidy(); len(names) != 1 {
		t.Errorf("pods %v, want one", names)
	}
}

// Test_Kubelet_Rootless builds with rootless BuildKit, the default.
func Test_Kubelet_Rootless(t *testing.T) {
	s := newInstall(t, installOptions{over: harness.Config{"kubernetes": map[string]any{
		"profile": "rootless", "images": map[string]any{"worker": kubelet.WorkerImage, "buildkit": kubelet.RootlessImage},
	}}})
	id := s.build(s.Nodes[0], "rootless", "FROM base\nRUN echo the-map: $(tr -s ' ' ' ' < /proc/self/uid_map)\n")
	s.succeeded(s.Nodes[1], id)
	if log := s.log(s.Nodes[2], id); !strings.Contains(log, " the-map: 0 1000 1 1 100000 65536") {
		t.Errorf("the step ran as another user: %s", log)
	}
	s.tidy()
}
