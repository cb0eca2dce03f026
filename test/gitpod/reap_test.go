package gitpod

import (
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Reaper_StopsWhatOutlivedItsAttempt: the next leader stops a workspace whose attempt is not
// live. It does not stop workspaces of live attempts and of another image builder.
func Test_Reaper_StopsWhatOutlivedItsAttempt(t *testing.T) {
	in := newInstall(t)
	release := make(chan struct{})
	in.work = func(string, *wsmanagertest.Workspace) { in.await(release) }
	c := in.cluster(3, nil)
	ctx := testkit.Context(t, 3*time.Minute)
	done := make(chan error, 1)
	lead := c.Leader()
	go func() { done <- success(c.Others(lead)[0].BuildGitpod(ctx, dockerfile(1))) }()
	id := running(t, c.Others(lead)[0])
	live := in.m.Starts()[0]

	conn, err := grpc.NewClient(in.m.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in.m.OnStart(nil)
	left := func(id, build string) string {
		req := proto.CloneOf(live)
		req.Id, req.ServicePrefix, req.Metadata.MetaId = id, id, build
		if _, err := wsman.NewWorkspaceManagerClient(conn).StartWorkspace(ctx, req); err != nil {
			t.Fatal(err)
		}
		in.m.Phase(id, wsman.WorkspacePhase_RUNNING)
		return id
	}
	const stranger = "0193a1b2-7c00-7000-8000-000000000001"
	foreign := left(stranger, stranger)
	orphan := left(wsmanager.WorkspaceID(id, 2), id)

	lead.Kill()
	testkit.Eventually(t, time.Minute, "the orphan is stopped", func() bool {
		for _, s := range in.m.Stops() {
			if s.Id == orphan {
				return true
			}
		}
		return false
	})
	in.m.Phase(orphan, wsman.WorkspacePhase_STOPPED)
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the running build: %v", err)
	}
	for _, s := range in.m.Stops() {
		if s.Id == foreign {
			t.Error("a workspace of another image builder was stopped")
		}
	}
}
