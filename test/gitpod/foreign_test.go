package gitpod

import (
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_ForeignWorkspaces: the service reports builds of the former service that still run after the
// migration, and never stops them. It does not report its own builds as foreign.
func Test_ForeignWorkspaces(t *testing.T) {
	t.Parallel()
	in := newInstall(t)
	release := make(chan struct{})
	in.work = func(string, *wsmanagertest.Workspace) { in.await(release) }
	const former = "7f1b3a52-9f0e-4c55-8a4e-0d7c7a1d2b11"
	in.m.Update(former, func(s *wsman.WorkspaceStatus) { // the former service uses the id of the build for its workspace
		s.Phase = wsman.WorkspacePhase_RUNNING
		s.Metadata = &wsman.WorkspaceMetadata{Owner: "user-9", MetaId: former, Annotations: map[string]string{
			"managed-by": "image-builder", "ref": in.reg.Addr + "/workspace-images:former", "baseref": in.reg.Addr + "/base-images:former",
		}}
	})
	n := in.node(nil)
	ctx := testkit.Context(t, 2*time.Minute)
	done := make(chan error, 1)
	go func() { done <- success(n.BuildGitpod(ctx, dockerfile(1))) }()
	testkit.Eventually(t, 30*time.Second, "our workspace runs", func() bool { k, _ := in.total(); return k == 1 })
	testkit.Eventually(t, 60*time.Second, "/ready reports the foreign workspace", func() bool {
		body, code := n.Get("http://" + n.Health + "/ready")
		return code == 200 && strings.Contains(body, "1 build workspaces of another image builder")
	})
	if body, _ := n.Get("http://" + n.Metrics + "/metrics"); !strings.Contains(body, "\nimage_builder_foreign_workspaces 1\n") {
		t.Error("the metric does not count one foreign workspace")
	}
	if log := n.Log(); strings.Count(log, former) != 1 || !strings.Contains(log, "left alone") {
		t.Errorf("the log names the foreign workspace %d times, want once", strings.Count(log, former))
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, s := range in.m.Stops() {
		t.Errorf("workspace %s was stopped", s.GetId())
	}
	in.m.Forget(former)
	testkit.Eventually(t, 60*time.Second, "/ready has no warning after the end of the foreign workspace", func() bool {
		body, _ := n.Get("http://" + n.Health + "/ready")
		return body == "ready\n"
	})
}
