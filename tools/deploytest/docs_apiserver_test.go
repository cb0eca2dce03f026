//go:build kubernetes

package deploytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Test_Docs_AcceptedByAPIServer runs the kubectl commands of the chaos guide, which apply
// experiments, with a real API server that has the CRDs of Chaos Mesh.
func Test_Docs_AcceptedByAPIServer(t *testing.T) {
	const guide = "deploy/chaos/README.md"
	crds, err := ModuleFiles(chaosMesh, "config/crd/bases/chaos-mesh.org_podchaos.yaml")
	if err != nil {
		t.Fatal(err)
	}
	program, err := filepath.Abs(filepath.Join(root, "test/kubernetes/bin/kubectl"))
	if err != nil {
		t.Fatal(err)
	}
	config := startAPI(t)
	kubectl := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append(args, "--server", config.Host, "--token", config.BearerToken, "--insecure-skip-tls-verify")...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("kubectl %q: %v\n%s", args, err, out)
		}
	}
	kubectl("create", "--filename", crds[0])
	kubectl("wait", "--for=condition=Established", "--timeout=1m", "--filename", crds[0])
	kubectl("create", "namespace", "image-builder")
	applied := 0
	for _, c := range typed(t, "kubectl") {
		if c.File == guide {
			kubectl(c.Words[1:]...)
			applied++
		}
	}
	if applied == 0 {
		t.Errorf("%s has no command of kubectl", guide)
	}
}
