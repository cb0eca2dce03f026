package wsmanager_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

func Test_Faults_AlreadyExists(t *testing.T) {
	e := newEnv(t)
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) {
		s.Phase, s.Conditions = wsman.WorkspacePhase_RUNNING, &wsman.WorkspaceConditions{}
		url, token := e.sup.Access(buildID)
		s.Spec, s.Auth = &wsman.WorkspaceSpec{Url: url}, &wsman.WorkspaceAuthentication{OwnerToken: token}
		s.Metadata = &wsman.WorkspaceMetadata{MetaId: buildID, Annotations: map[string]string{"managed-by": "image-builder"}}
	})
	r := e.begin(dockerfileWorkload())
	ws := e.sup.Workspace(buildID)
	ws.Open()
	_, _ = ws.Write([]byte("from the beginning\n"))
	r.sink.await(t, e.ctx, "from the beginning\n")
	ws.Close()
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
}

// Test_Faults_TheAnswerOfTheStartIsLost checks that a lost response to the start does no harm: the
// second start is refused, which proves that the first one happened.
func Test_Faults_TheAnswerOfTheStartIsLost(t *testing.T) {
	e := newEnv(t)
	e.m.OnStart(startUnavailable)
	r := e.begin(dockerfileWorkload())
	e.m.AwaitCalls(e.ctx, wsStart, 2)
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
	if n := e.m.Calls(wsStart); n != 2 {
		t.Errorf("%d starts, want 2", n)
	}
}

// Test_Faults_TheNodesLogQuotesNoRequest checks that the log does not show texts of ws-manager,
// which may quote the request.
func Test_Faults_TheNodesLogQuotesNoRequest(t *testing.T) {
	log := newSink() // several goroutines write to it
	e := newEnv(t, func(o *wsmanager.Options) {
		o.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	e.m.Fail(wsStart, status.Error(codes.Unavailable, "hunter2"), 2)
	e.begin(dockerfileWorkload())
	if got := log.text(); strings.Contains(got, "hunter2") || !strings.Contains(got, "cannot start a workspace") || !strings.Contains(got, "Unavailable") {
		t.Errorf("the log says %q", got)
	}
}

// Test_Faults_StoppedWithoutConditions checks that missing conditions do not count as a success.
func Test_Faults_StoppedWithoutConditions(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.img.push(ref, baseRef)
	e.m.Mute(true)
	e.stopped(func(s *wsman.WorkspaceStatus) { s.Conditions.HeadlessTaskFailed = "exit code 1" })
	e.m.Mute(false)
	e.m.Fail("DescribeWorkspace", status.Error(codes.Unavailable, ""), 5)
	e.m.Publish(&wsman.WorkspaceStatus{Id: buildID, Phase: wsman.WorkspacePhase_STOPPED})
	r.fails(builds.BlameUser, "exit code 1")
}

func Test_Faults_NobodyKnowsConditions(t *testing.T) {
	t.Run("the image is new", func(t *testing.T) {
		e := newEnv(t)
		r := e.begin(dockerfileWorkload())
		e.img.push(ref, baseRef)
		e.stopped(func(s *wsman.WorkspaceStatus) { s.Conditions = nil })
		r.succeeds(built("base-images"))
	})
	t.Run("the image is old", func(t *testing.T) {
		e := newEnv(t)
		e.img.push(ref, baseRef)
		r := e.begin(dockerfileWorkload())
		e.m.AwaitCalls(e.ctx, wsStart, 1)
		e.stopped(func(s *wsman.WorkspaceStatus) { s.Conditions = nil })
		r.fails(builds.BlameInfrastructure, "the end of its build was not observed")
	})
}

func Test_Faults_TheWorkspaceVanishes(t *testing.T) {
	t.Run("with an image", func(t *testing.T) {
		e := newEnv(t, often)
		r := e.begin(dockerfileWorkload())
		e.img.push(ref, baseRef)
		e.m.Forget(buildID)
		r.succeeds(built("base-images"))
	})
	t.Run("without one", func(t *testing.T) {
		e := newEnv(t, often)
		r := e.begin(dockerfileWorkload())
		e.m.Forget(buildID)
		r.fails(builds.BlameInfrastructure, "no longer has workspace")
	})
	t.Run("with the one from before", func(t *testing.T) {
		e := newEnv(t, often)
		e.img.push(ref, baseRef)
		r := e.begin(dockerfileWorkload())
		e.m.Forget(buildID)
		r.fails(builds.BlameInfrastructure, "no longer has workspace")
	})
	t.Run("while it stops", func(t *testing.T) {
		e := newEnv(t, often)
		r := e.begin(dockerfileWorkload())
		e.img.push(ref, baseRef)
		e.m.Phase(buildID, wsman.WorkspacePhase_STOPPING)
		e.m.Forget(buildID)
		r.succeeds(built("base-images"))
	})
}

// Test_Faults_MissingForAMoment checks that a workspace may be missing for a short time: the cache
// of ws-manager may lag behind.
func Test_Faults_MissingForAMoment(t *testing.T) {
	e := newEnv(t, often, func(o *wsmanager.Options) { o.MissingAfter = time.Minute })
	r := e.begin(dockerfileWorkload())
	was := e.m.Status(buildID)
	e.m.Forget(buildID)
	n := e.m.Calls("DescribeWorkspace")
	e.m.Update("other", func(*wsman.WorkspaceStatus) {})
	e.m.DropSubscriptions()
	e.m.AwaitCalls(e.ctx, "DescribeWorkspace", n+1)
	e.img.push(ref, baseRef)
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) {
		s.Metadata, s.Conditions, s.Phase = was.Metadata, was.Conditions, wsman.WorkspacePhase_STOPPED
	})
	e.m.DropSubscriptions()
	r.succeeds(built("base-images"))
}

// Test_Faults_AWorkspaceThatRanIsNotStartedAgain uses a log that already holds output of the
// workspace.
func Test_Faults_AWorkspaceThatRanIsNotStartedAgain(t *testing.T) {
	e := newEnv(t, often)
	e.m.AwaitSubscription(e.ctx)
	s := newSink()
	s.offset = 10
	e.runOn(e.rt, dockerfileWorkload(), s).fails(builds.BlameInfrastructure, "no longer has workspace")
	if n := e.m.Calls(wsStart); n != 0 {
		t.Errorf("%d starts", n)
	}
}

func Test_Faults_ACreatedWorkspaceIsNotStartedAgain(t *testing.T) {
	e := newEnv(t, often)
	e.m.AwaitSubscription(e.ctx)
	w := dockerfileWorkload()
	w.Created = func(context.Context) error {
		if n := e.m.Calls(wsStart); n != 1 {
			t.Errorf("said to be created after %d starts", n)
		}
		return builds.ErrFenced
	}
	if _, err := e.rt.Run(e.ctx, w, newSink()); !errors.Is(err, builds.ErrFenced) {
		t.Errorf("Run: %v, want %v", err, builds.ErrFenced)
	}
	if n := e.m.Calls("StopWorkspace"); n != 0 {
		t.Errorf("the workspace of the next owner received %d stop requests", n)
	}
	e.m.Forget(buildID)
	next := dockerfileWorkload()
	next.Started = true
	e.runOn(e.runtime(), next, newSink()).fails(builds.BlameInfrastructure, "no longer has workspace")
	if n := e.m.Calls(wsStart); n != 1 {
		t.Errorf("%d starts", n)
	}
}

// Test_Faults_TwoNodesFollowOne lets a second owner follow a workspace while the former owner,
// which does not know of it yet, still follows it.
func Test_Faults_TwoNodesFollowOne(t *testing.T) {
	e := newEnv(t)
	first := e.begin(dockerfileWorkload())
	second := e.runOn(e.runtime(), dockerfileWorkload(), newSink())
	e.m.AwaitCalls(e.ctx, wsStart, 2)
	e.img.push(ref, baseRef)
	e.stopped()
	e.m.DropSubscriptions()
	first.succeeds(built("base-images"))
	second.succeeds(built("base-images"))
}

// Test_Faults_AnAdoptedOneHasNoFormerImage checks an adopted workspace: it may have pushed before
// this node recorded the former image.
func Test_Faults_AnAdoptedOneHasNoFormerImage(t *testing.T) {
	e := newEnv(t)
	e.begin(dockerfileWorkload()).stop()
	e.img.push(ref, baseRef)
	r := e.run(dockerfileWorkload())
	e.m.AwaitCalls(e.ctx, wsStart, 2)
	e.stopped(func(s *wsman.WorkspaceStatus) { s.Conditions = nil })
	r.succeeds(built("base-images"))
}

// Test_Faults_AnAdoptedOneIsStopped checks that the image in the registry does not count: it may be
// the one from before a forced build, which this node never recorded.
func Test_Faults_AnAdoptedOneIsStopped(t *testing.T) {
	e := newEnv(t)
	e.img.push(ref, baseRef)
	e.begin(dockerfileWorkload()).stop()
	r := e.run(dockerfileWorkload())
	e.m.AwaitCalls(e.ctx, wsStart, 2)
	e.stopped(func(s *wsman.WorkspaceStatus) {
		s.Conditions.StoppedByRequest = wsman.WorkspaceConditionBool_TRUE
	})
	r.fails(builds.BlameInfrastructure, "was stopped on request")
}

// Test_Faults_AnAdoptedOneEndedBefore checks a workspace that ended before it was adopted: no
// update reports it any more.
func Test_Faults_AnAdoptedOneEndedBefore(t *testing.T) {
	e := newEnv(t)
	e.begin(dockerfileWorkload()).stop()
	e.m.Mute(true)
	e.img.push(ref, baseRef)
	e.stopped()
	e.run(dockerfileWorkload()).succeeds(built("base-images"))
}

// Test_Faults_AnAdoptedOneVanishes checks that the image in the registry does not count: it may be
// an old one.
func Test_Faults_AnAdoptedOneVanishes(t *testing.T) {
	e := newEnv(t, often)
	e.begin(dockerfileWorkload()).stop()
	r := e.run(dockerfileWorkload())
	e.m.AwaitCalls(e.ctx, wsStart, 2)
	e.img.push(ref, baseRef)
	e.m.Forget(buildID)
	r.fails(builds.BlameInfrastructure, "no longer has workspace")
}
