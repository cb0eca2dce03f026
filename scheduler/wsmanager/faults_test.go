package wsmanager_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

func often(o *wsmanager.Options) { o.ReconcileInterval = 5 * time.Millisecond }

func Test_Faults_UnavailableIsRetried(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.Canceled, codes.ResourceExhausted} {
		t.Run(code.String(), func(t *testing.T) {
			e := newEnv(t)
			e.m.Fail(wsStart, status.Error(code, "later"), 15)
			r := e.begin(dockerfileWorkload())
			e.img.push(ref, baseRef)
			e.stopped()
			r.succeeds(built("base-images"))
			if n := e.m.Calls(wsStart); n < 16 {
				t.Errorf("%d starts, want 16", n)
			}
		})
	}
}

const wsStart = "StartWorkspace"

func Test_Faults_InternalIsRetriedAFewTimes(t *testing.T) {
	e := newEnv(t)
	e.m.Fail(wsStart, status.Error(codes.Internal, "defect"), -1)
	e.run(dockerfileWorkload()).fails(builds.BlameInfrastructure, "Internal")
	if n := e.m.Calls(wsStart); n != 5 {
		t.Errorf("%d starts, want 5", n)
	}
}

func Test_Faults_DownAtTheStart(t *testing.T) {
	e := newEnv(t)
	e.m.AwaitSubscription(e.ctx)
	e.m.Down()
	r := e.run(dockerfileWorkload())
	e.m.Up()
	e.m.AwaitWorkspace(e.ctx, buildID)
	e.m.AwaitSubscription(e.ctx)
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
}

func Test_Faults_DownWhileItEnds(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.m.Down()
	e.img.push(ref, baseRef)
	e.stopped()
	e.m.Up()
	r.succeeds(built("base-images"))
}

func Test_Faults_TheSubscriptionDrops(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.m.Mute(true) // updates are lost until the next subscription
	e.img.push(ref, baseRef)
	e.stopped()
	e.m.DropSubscriptions()
	r.succeeds(built("base-images"))
}

func Test_Faults_UpdatesAreLost(t *testing.T) {
	e := newEnv(t, often)
	r := e.begin(dockerfileWorkload())
	e.m.Mute(true)
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
}

// Test_Faults_SubscribeNeverWorks checks that the reconciler alone is enough.
func Test_Faults_SubscribeNeverWorks(t *testing.T) {
	e := newEnv(t, often)
	e.m.Fail("Subscribe", status.Error(codes.Unimplemented, ""), -1)
	e.m.DropSubscriptions()
	r := e.run(dockerfileWorkload())
	e.m.AwaitWorkspace(e.ctx, buildID)
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
}

// Test_Faults_TheListLacksIt checks that workspaces are also queried by id.
func Test_Faults_TheListLacksIt(t *testing.T) {
	e := newEnv(t, often)
	r := e.begin(dockerfileWorkload())
	e.m.Mute(true)
	e.img.push(ref, baseRef)
	e.stopped(func(s *wsman.WorkspaceStatus) { s.Metadata = nil })
	r.succeeds(built("base-images"))
}

func Test_Faults_OldUpdates(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) { s.Phase, s.StatusVersion = wsman.WorkspacePhase_STOPPING, 50 })
	old := e.m.Status(buildID)
	old.Phase, old.StatusVersion = wsman.WorkspacePhase_RUNNING, 7
	e.m.Publish(old)
	e.img.push(ref, baseRef)
	e.stopped()
	e.m.Publish(old)
	r.succeeds(built("base-images"))
}

// Test_Faults_ManyOldUpdates sends the updates of a workspace in every order.
func Test_Faults_ManyOldUpdates(t *testing.T) {
	for i, order := range [][]int{{3, 1, 2}, {3, 2, 1}, {2, 3, 1}, {2, 1, 3}, {1, 3, 2}} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			e := newEnv(t)
			r := e.begin(dockerfileWorkload())
			e.m.Mute(true)
			var life [4]*wsman.WorkspaceStatus
			for n, p := range []wsman.WorkspacePhase{0, wsman.WorkspacePhase_RUNNING, wsman.WorkspacePhase_STOPPING, wsman.WorkspacePhase_STOPPED} {
				e.m.Update(buildID, func(s *wsman.WorkspaceStatus) {
					if s.Phase = p; p == wsman.WorkspacePhase_STOPPED {
						s.Conditions.HeadlessTaskFailed = "exit code 1"
					}
				})
				life[n] = e.m.Status(buildID)
				life[n].StatusVersion = uint64(10 + n)
			}
			e.m.Mute(false)
			for _, n := range order {
				e.m.Publish(life[n])
			}
			r.fails(builds.BlameUser, "exit code 1")
		})
	}
}

// Test_Faults_VersionsBeginAnew checks that the versions of updates may start at one again, after
// ws-manager was replaced.
func Test_Faults_VersionsBeginAnew(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) { s.Phase, s.StatusVersion = wsman.WorkspacePhase_RUNNING, 1000 })
	e.img.push(ref, baseRef)
	e.m.Update(buildID, func(s *wsman.WorkspaceStatus) { s.Phase, s.StatusVersion = wsman.WorkspacePhase_STOPPED, 1 })
	r.succeeds(built("base-images"))
}

func Test_Faults_PartsAreMissing(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.m.Send(&wsman.SubscribeResponse{})
	e.m.Send(&wsman.SubscribeResponse{Header: map[string]string{"a": "b"}})
	e.m.Send(&wsman.SubscribeResponse{Status: &wsman.WorkspaceStatus{}})
	e.m.Send(&wsman.SubscribeResponse{Status: &wsman.WorkspaceStatus{Id: "another", Phase: wsman.WorkspacePhase_STOPPED}})
	e.m.Send(&wsman.SubscribeResponse{Status: &wsman.WorkspaceStatus{Id: buildID}})
	e.m.Send(&wsman.SubscribeResponse{Status: &wsman.WorkspaceStatus{Id: buildID, Phase: wsman.WorkspacePhase_STOPPING}})
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
}

func Test_Faults_ABusySinkStopsNobodyElse(t *testing.T) {
	e := newEnv(t)
	slow := newSink()
	slow.block = make(chan struct{})
	r := e.runOn(e.rt, dockerfileWorkload(), slow)
	e.m.AwaitWorkspace(e.ctx, buildID)
	ws := e.sup.Workspace(buildID)
	ws.Open()
	_, _ = ws.Write([]byte("nobody takes this\n"))
	ws.AwaitListener(e.ctx)

	other := dockerfileWorkload()
	other.BuildID = "11111111-2222-4333-8444-555555555555"
	fast := e.run(other)
	e.m.AwaitWorkspace(e.ctx, other.BuildID)
	e.img.push(ref, baseRef)
	for range 1000 {
		e.m.Phase(buildID, wsman.WorkspacePhase_RUNNING)
	}
	e.m.Phase(other.BuildID, wsman.WorkspacePhase_STOPPED)
	fast.succeeds(built("base-images"))

	close(slow.block)
	ws.Close()
	e.stopped()
	r.succeeds(built("base-images"))
}

func Test_Faults_OneSubscriptionForAll(t *testing.T) {
	e := newEnv(t)
	e.m.AwaitSubscription(e.ctx)
	e.img.push(ref, baseRef)
	var all []*result
	for i := range 20 {
		w := dockerfileWorkload()
		w.BuildID = fmt.Sprintf("11111111-2222-4333-8444-5555555555%02d", i)
		e.m.OnStart(nil)
		all = append(all, e.run(w))
	}
	for i, r := range all {
		id := fmt.Sprintf("11111111-2222-4333-8444-5555555555%02d", i)
		e.m.AwaitWorkspace(e.ctx, id)
		e.m.Phase(id, wsman.WorkspacePhase_STOPPED)
		r.succeeds(built("base-images"))
	}
	if n := e.m.Calls("Subscribe"); n != 1 {
		t.Errorf("%d subscriptions, want 1", n)
	}
}

func Test_Faults_UpdatesAreLateAndTurnedRound(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.m.Hold()
	e.m.Phase(buildID, wsman.WorkspacePhase_RUNNING)
	e.m.Phase(buildID, wsman.WorkspacePhase_STOPPING)
	e.img.push(ref, baseRef)
	e.stopped()
	e.m.Release(slices.Reverse)
	r.succeeds(built("base-images"))
}

// Test_Faults_HalfOfEachUpdate checks that missing parts of updates are queried.
func Test_Faults_HalfOfEachUpdate(t *testing.T) {
	for name, strip := range map[string]func(*wsman.WorkspaceStatus){
		"auth":       func(s *wsman.WorkspaceStatus) { s.Auth = nil },
		"metadata":   func(s *wsman.WorkspaceStatus) { s.Metadata = nil },
		"spec":       func(s *wsman.WorkspaceStatus) { s.Spec = nil },
		"conditions": func(s *wsman.WorkspaceStatus) { s.Conditions = nil },
		"version":    func(s *wsman.WorkspaceStatus) { s.StatusVersion = 0 },
		"all": func(s *wsman.WorkspaceStatus) {
			s.Auth, s.Metadata, s.Spec, s.Conditions, s.StatusVersion = nil, nil, nil, nil, 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.m.Strip(strip)
			r := e.begin(dockerfileWorkload())
			for p := wsman.WorkspacePhase_PENDING; p <= wsman.WorkspacePhase_STOPPING; p++ {
				e.m.Phase(buildID, p)
			}
			e.stopped(func(s *wsman.WorkspaceStatus) { s.Conditions.HeadlessTaskFailed = "exit code 1" })
			r.fails(builds.BlameUser, "exit code 1")
		})
	}
}

func Test_Faults_LongTextsAreCut(t *testing.T) {
	e := newEnv(t)
	r := e.begin(dockerfileWorkload())
	e.stopped(func(s *wsman.WorkspaceStatus) { s.Conditions.HeadlessTaskFailed = strings.Repeat("\u00e9", 100_000) })
	_, err := r.wait()
	if n := len(err.Error()); n > 5000 || !utf8.ValidString(err.Error()) {
		t.Errorf("the message has %d bytes", n)
	}
}
