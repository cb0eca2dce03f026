package wsmanager_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

func startUnavailable(context.Context, *wsman.StartWorkspaceRequest) error {
	return status.Error(codes.Unavailable, "the answer is lost")
}

func Test_Stop_WaitsForTheEnd(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.m.OnStop(func(*wsman.StopWorkspaceRequest) { e.m.Phase(buildID, wsman.WorkspacePhase_STOPPING) })
	stopped := make(chan error, 1)
	go func() { stopped <- e.rt.Stop(e.ctx, dockerfileWorkload().Name()) }()
	e.m.AwaitCalls(e.ctx, "DescribeWorkspace", e.m.Calls("DescribeWorkspace")+2)
	select {
	case err := <-stopped:
		t.Fatalf("Stop returned while the workspace is stopping: %v", err)
	default:
	}
	e.stopped()
	if err := <-stopped; err != nil {
		t.Errorf("Stop: %v", err)
	}
	if _, err := r.wait(); err == nil {
		t.Error("the Run that was stopped succeeded")
	}
}

func Test_Stop_OfNothing(t *testing.T) {
	e := newEnv(t)
	if err := e.rt.Stop(e.ctx, workload.Name(buildID, 2)); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if s := e.m.Stops(); len(s) == 0 || s[0].GetId() != wsmanager.WorkspaceID(buildID, 2) {
		t.Errorf("stops: %v", s)
	}
	for _, name := range []string{"", "ib-", "ib-x", "ib-x-0", "ib-x-01", "pod-x-1", "ib-x-y"} {
		if err := e.rt.Stop(e.ctx, name); err == nil {
			t.Errorf("Stop of %q succeeds", name)
		}
	}
}

func Test_Stop_LeavesAloneWhatHasStopped(t *testing.T) {
	e := newEnv(t)
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) { s.Phase = wsman.WorkspacePhase_STOPPED })
	if err := e.rt.Stop(e.ctx, dockerfileWorkload().Name()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if n := e.m.Calls("StopWorkspace"); n != 0 {
		t.Errorf("a stopped workspace received %d stop requests", n)
	}
}

func Test_Stop_RetriesWhileDown(t *testing.T) {
	e := newEnv(t)
	e.begin(dockerfileWorkload())
	e.m.Fail("StopWorkspace", status.Error(codes.Unavailable, ""), 3)
	e.m.OnStop(func(*wsman.StopWorkspaceRequest) { e.m.Forget(buildID) })
	if err := e.rt.Stop(e.ctx, dockerfileWorkload().Name()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if n := e.m.Calls("StopWorkspace"); n != 4 {
		t.Errorf("%d calls, want 4", n)
	}
	e.m.Down()
	ctx, cancel := context.WithTimeout(e.ctx, 20*time.Millisecond)
	defer cancel()
	if err := e.rt.Stop(ctx, dockerfileWorkload().Name()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stop while ws-manager is down: %v", err)
	}
}

func Test_Stop_IsRefused(t *testing.T) {
	e := newEnv(t)
	e.m.Fail("StopWorkspace", status.Error(codes.PermissionDenied, "no"), -1)
	if err := e.rt.Stop(e.ctx, dockerfileWorkload().Name()); status.Code(errors.Unwrap(err)) != codes.PermissionDenied {
		t.Errorf("Stop: %v", err)
	}
}

// Test_Stop_OfAStartWhoseAnswerIsLost checks that Stop also ends a workspace that appears only
// after the first query.
func Test_Stop_OfAStartWhoseAnswerIsLost(t *testing.T) {
	e := newEnv(t, func(o *wsmanager.Options) { o.MissingAfter = time.Minute })
	e.m.AwaitSubscription(e.ctx)
	e.m.Mute(true)
	e.m.Fail(wsStart, status.Error(codes.Unavailable, ""), -1)
	e.run(dockerfileWorkload())
	e.m.AwaitCalls(e.ctx, wsStart, 1)
	stopped := make(chan error, 1)
	go func() { stopped <- e.rt.Stop(e.ctx, dockerfileWorkload().Name()) }()
	e.m.AwaitCalls(e.ctx, "StopWorkspace", 2)
	e.m.OnStop(func(*wsman.StopWorkspaceRequest) { e.m.Forget(buildID) })
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) { s.Phase = wsman.WorkspacePhase_CREATING })
	if err := <-stopped; err != nil {
		t.Errorf("Stop: %v", err)
	}
	if e.m.Status(buildID) != nil {
		t.Error("the workspace still runs")
	}
}

func Test_List(t *testing.T) {
	e := newEnv(t)
	for id, attempt := range map[string]uint32{"11111111-2222-4333-8444-555555555501": 1, "11111111-2222-4333-8444-555555555502": 3} {
		e.m.Update(wsmanager.WorkspaceID(id, attempt), func(s *wsman.WorkspaceStatus) {
			s.Phase = wsman.WorkspacePhase_RUNNING
			s.Metadata = &wsman.WorkspaceMetadata{MetaId: id, Annotations: map[string]string{"managed-by": "image-builder"}}
		})
	}
	e.m.Update("11111111-2222-4333-8444-555555555503", func(s *wsman.WorkspaceStatus) {
		s.Phase = wsman.WorkspacePhase_STOPPED
		s.Metadata = &wsman.WorkspaceMetadata{MetaId: s.Id, Annotations: map[string]string{"managed-by": "image-builder"}}
	})
	e.m.Update("11111111-2222-4333-8444-555555555504", func(s *wsman.WorkspaceStatus) {
		s.Metadata = &wsman.WorkspaceMetadata{MetaId: s.Id, Annotations: map[string]string{"managed-by": "somebody else"}}
	})
	got, err := e.rt.List(e.ctx)
	want := []string{"ib-11111111-2222-4333-8444-555555555501-1", "ib-11111111-2222-4333-8444-555555555502-3"}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Error(err, d)
	}
	e.m.Fail("GetWorkspaces", status.Error(codes.Unavailable, ""), -1)
	if got, err := e.rt.List(e.ctx); err == nil {
		t.Errorf("List of a ws-manager that is down: %v", got)
	}
}

func Test_Runtime_Facts(t *testing.T) {
	e := newEnv(t)
	if e.rt.Name() != "wsmanager" || !e.rt.Survives() {
		t.Errorf("name %q, survives %v", e.rt.Name(), e.rt.Survives())
	}
}
