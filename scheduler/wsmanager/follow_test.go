package wsmanager_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

func Test_Run_OfADockerfile(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	ws := e.sup.Workspace(buildID)
	e.m.Phase(buildID, wsman.WorkspacePhase_RUNNING)
	ws.Open()
	_, _ = ws.Write([]byte("building\n"))
	r.sink.await(t, e.ctx, "building\n")
	_, _ = ws.Write([]byte("pushing\n"))
	ws.Close()
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
	if got := r.sink.text(); got != "building\npushing\n" || !r.sink.running {
		t.Errorf("log %q, running %v", got, r.sink.running)
	}
	if len(e.m.Stops()) != 0 {
		t.Error("a workspace that ended by itself was stopped")
	}
}

func Test_Run_OfARef(t *testing.T) {
	e := newEnv(t)
	r := e.begin(refWorkload())
	e.img.push(ref)
	e.stopped()
	r.succeeds(built("workspace-images"))
}

// Test_Run_Ends is the table of the rules about the end of a workspace (docs/gitpod-contract.md,
// section 3).
func Test_Run_Ends(t *testing.T) {
	type cond = *wsman.WorkspaceConditions
	for name, c := range map[string]struct {
		phase   wsman.WorkspacePhase
		set     func(cond)
		absent  bool
		blame   imagebuilderv1.Blame // zero for success
		message string
	}{
		"stopped":                  {phase: wsman.WorkspacePhase_STOPPED},
		"stopped without an image": {phase: wsman.WorkspacePhase_STOPPED, absent: true, blame: builds.BlameInfrastructure, message: "image build did not produce a workspace image"},
		"failed": {
			phase: wsman.WorkspacePhase_STOPPED, set: func(c cond) { c.Failed = "cannot pull the builder" },
			blame: builds.BlameInfrastructure, message: "cannot pull the builder",
		},
		"failed while stopping": {
			phase: wsman.WorkspacePhase_STOPPING, set: func(c cond) { c.Failed = "node lost" },
			blame: builds.BlameInfrastructure, message: "node lost",
		},
		"task failed": {
			phase: wsman.WorkspacePhase_STOPPED, set: func(c cond) { c.HeadlessTaskFailed = "exit code 1" },
			blame: builds.BlameUser, message: "exit code 1",
		},
		"task failed while stopping": {
			phase: wsman.WorkspacePhase_STOPPING, set: func(c cond) { c.HeadlessTaskFailed = "exit code 1" },
			blame: builds.BlameUser, message: "exit code 1",
		},
		"failed by the task": {
			phase: wsman.WorkspacePhase_STOPPED, set: func(c cond) { c.Failed = "headless task failed: exit code 1" },
			blame: builds.BlameUser, message: "headless task failed: exit code 1",
		},
		"both failed": {
			phase: wsman.WorkspacePhase_STOPPED, set: func(c cond) { c.Failed, c.HeadlessTaskFailed = "evicted", "exit code 137" },
			blame: builds.BlameInfrastructure, message: "evicted",
		},
		"timeout": {
			phase: wsman.WorkspacePhase_STOPPED, set: func(c cond) { c.Timeout = "60m" },
			blame: builds.BlameTimeout, message: "time limit: 60m",
		},
		"aborted": {
			phase: wsman.WorkspacePhase_STOPPED, set: func(c cond) { c.Aborted = wsman.WorkspaceConditionBool_TRUE },
			blame: builds.BlameInfrastructure, message: "aborted",
		},
		"not aborted": {phase: wsman.WorkspacePhase_STOPPED, set: func(c cond) { c.Aborted = wsman.WorkspaceConditionBool_EMPTY }},
		"stopped by somebody": {
			phase: wsman.WorkspacePhase_STOPPED, set: func(c cond) { c.StoppedByRequest = wsman.WorkspaceConditionBool_TRUE }, absent: true,
			blame: builds.BlameInfrastructure, message: "stopped on request",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			r := e.begin(dockerfileWorkload())
			if !c.absent {
				e.img.push(ref, baseRef)
			}
			e.m.Update(buildID, func(s *wsman.WorkspaceStatus) {
				s.Phase = c.phase
				if c.set != nil {
					c.set(s.Conditions)
				}
			})
			if c.blame == imagebuilderv1.Blame_BLAME_UNSPECIFIED {
				r.succeeds(built("base-images"))
				return
			}
			r.fails(c.blame, c.message)
			if n := len(e.m.Stops()); n != 0 {
				t.Errorf("an ended workspace was stopped %d times", n)
			}
		})
	}
}

// Test_Run_OtherPhasesGoOn checks that conditions count only in the phases STOPPING and STOPPED.
func Test_Run_OtherPhasesGoOn(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	for _, p := range []wsman.WorkspacePhase{
		wsman.WorkspacePhase_UNKNOWN, wsman.WorkspacePhase_CREATING, wsman.WorkspacePhase_INITIALIZING,
		wsman.WorkspacePhase_RUNNING, wsman.WorkspacePhase_INTERRUPTED, 42,
	} {
		e.m.Update(buildID, func(s *wsman.WorkspaceStatus) { s.Phase, s.Conditions.Failed = p, "a hiccup" })
	}
	e.img.push(ref, baseRef)
	e.stopped(func(s *wsman.WorkspaceStatus) { s.Conditions.Failed = "" })
	r.succeeds(built("base-images"))
}

func Test_Run_StoppingAndStoppedTogether(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.img.push(ref, baseRef)
	e.m.Phase(buildID, wsman.WorkspacePhase_STOPPING)
	e.stopped()
	r.succeeds(built("base-images"))
}

// Test_Run_AFailureIsNotForgotten checks that `failed` stays set although later updates lack it
// (Gitpod contract).
func Test_Run_AFailureIsNotForgotten(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.img.push(ref, baseRef)
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) { s.Phase, s.Conditions.Failed = wsman.WorkspacePhase_STOPPING, "first" })
	e.stopped(func(s *wsman.WorkspaceStatus) { s.Conditions.Failed = "" })
	r.fails(builds.BlameInfrastructure, "first")
}

// Test_Run_AFailureMayComeAfterStopping checks that STOPPING without a failure is not a success
// yet.
func Test_Run_AFailureMayComeAfterStopping(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.img.push(ref, baseRef)
	e.m.Phase(buildID, wsman.WorkspacePhase_STOPPING)
	e.stopped(func(s *wsman.WorkspaceStatus) { s.Conditions.HeadlessTaskFailed = "exit code 1" })
	r.fails(builds.BlameUser, "exit code 1")
}

func Test_Run_StoppingForEver(t *testing.T) {
	e := newEnv(t, func(o *wsmanager.Options) { o.StopGrace = 10 * time.Millisecond })
	r := e.begin(dockerfileWorkload())
	e.img.push(ref, baseRef)
	e.m.Phase(buildID, wsman.WorkspacePhase_STOPPING)
	r.succeeds(built("base-images"))
}

func Test_Run_StoppedBeforeTheStartReturned(t *testing.T) {
	e := newEnv(t)
	left := make(chan struct{})
	e.m.OnStart(func(ctx context.Context, _ *wsman.StartWorkspaceRequest) error {
		defer close(left)
		e.img.push(ref, baseRef)
		e.stopped()
		<-ctx.Done() // only the end of the Run ends this call
		return ctx.Err()
	})
	e.begin(dockerfileWorkload()).succeeds(built("base-images"))
	<-left
}

func Test_Run_TheImageShowsLater(t *testing.T) {
	e := newEnv(t, func(o *wsmanager.Options) { o.ImageTimeout = time.Minute })
	asked := make(chan string, 100)
	r := e.begin(dockerfileWorkload())
	e.img.mu.Lock()
	e.img.asked = func(ref string) { asked <- ref }
	e.img.mu.Unlock()
	e.stopped()
	<-asked
	<-asked
	e.img.push(ref, baseRef)
	r.succeeds(built("base-images"))
}

// Test_Run_NeedsBothImages checks that the base image must exist as well: Gitpod passes the base
// ref in later requests.
func Test_Run_NeedsBothImages(t *testing.T) {
	for _, there := range []string{ref, baseRef} {
		e := newEnv(t)
		r := e.begin(dockerfileWorkload())
		e.img.push(there)
		e.stopped()
		r.fails(builds.BlameInfrastructure, "image build did not produce a workspace image")
	}
}

func Test_Run_WaitsForTheRegistry(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	asked := make(chan string, 1000)
	e.img.mu.Lock()
	e.img.err, e.img.asked = errors.New("503"), func(ref string) {
		select {
		case asked <- ref:
		default:
		}
	}
	e.img.mu.Unlock()
	e.stopped()
	for range 4 {
		<-asked
	}
	e.img.mu.Lock()
	e.img.err = nil
	e.img.mu.Unlock()
	e.img.push(ref, baseRef)
	r.succeeds(built("base-images"))
}

func Test_Run_CannotReadTheRegistry(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.img.mu.Lock()
	e.img.err = &builds.ImageError{Kind: builds.ImageUnauthorized, Err: errors.New("401")}
	e.img.mu.Unlock()
	e.stopped()
	r.fails(builds.BlameInfrastructure, "pull secret")
}

func Test_Run_LeavesTheWorkspaceWhenItsContextEnds(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.m.Phase(buildID, wsman.WorkspacePhase_RUNNING)
	r.sink.until(t, e.ctx, func() bool { return r.sink.running })
	r.stop()
	if _, err := r.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v, want that its context ended", err)
	}
	if n := e.m.Calls("StopWorkspace"); n != 0 {
		t.Errorf("the workspace was stopped %d times", n)
	}
}

func Test_Run_ReturnsSoonFromAStartThatHangs(t *testing.T) {
	e := newEnv(t)
	e.m.OnStart(func(ctx context.Context, _ *wsman.StartWorkspaceRequest) error { <-ctx.Done(); return ctx.Err() })
	r := e.begin(dockerfileWorkload())
	r.stop()
	if _, err := r.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
}

func Test_Run_StopsTheWorkspaceAtTheDeadline(t *testing.T) {
	e := newEnv(t)
	w := dockerfileWorkload()
	w.Deadline = time.Now().Add(200 * time.Millisecond)
	r := e.begin(w)
	r.fails(builds.BlameTimeout, "deadline")
	if s := e.m.Stops(); len(s) != 1 || s[0].GetId() != buildID {
		t.Errorf("stops: %v", s)
	}
}

func Test_Run_AgainReplacesTheFormer(t *testing.T) {
	e := newEnv(t)
	first := e.begin(dockerfileWorkload())
	second := e.run(dockerfileWorkload())
	if _, err := first.wait(); err == nil {
		t.Error("the former Run succeeded")
	}
	e.img.push(ref, baseRef)
	e.stopped()
	second.succeeds(built("base-images"))
	if e.m.Calls("StopWorkspace") != 0 {
		t.Error("the workspace was stopped")
	}
}

func Test_Run_AStartThatIsRefused(t *testing.T) {
	e := newEnv(t)
	e.m.Fail("StartWorkspace", status.Error(codes.InvalidArgument, "password=hunter2 is bad"), -1)
	r := e.run(dockerfileWorkload())
	r.fails(builds.BlameInfrastructure, "InvalidArgument")
	if n := e.m.Calls("StartWorkspace"); n != 1 {
		t.Errorf("%d starts", n)
	}
	if e.m.Calls("StopWorkspace") != 0 {
		t.Error("a workspace that never was is stopped")
	}
}
