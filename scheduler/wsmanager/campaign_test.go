package wsmanager_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

// Test_Campaign runs many builds while ws-manager does, at random, everything that the contract
// warns of. In all cases each build ends as its workspace did, and its log is the output of the
// workspace.
func Test_Campaign(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	e := newEnv(t, often, func(o *wsmanager.Options) { o.MissingAfter, o.ImageTimeout = time.Minute, time.Second })
	e.m.AwaitSubscription(e.ctx)
	faults := make(chan struct{})
	var disturber, all sync.WaitGroup
	disturber.Go(func() { e.disturb(rand.New(rand.NewPCG(seed, 0)), faults) })
	for i := range 60 {
		all.Go(func() { e.campaignBuild(rand.New(rand.NewPCG(seed, uint64(i+1))), i) })
	}
	all.Wait()
	close(faults)
	disturber.Wait()
	ids := map[string]int{}
	for _, s := range e.m.Starts() {
		ids[s.GetId()]++
	}
	if len(ids) != 60 {
		t.Errorf("%d workspaces, want 60", len(ids))
	}
}

// disturb injects faults until done is closed.
func (e *env) disturb(r *rand.Rand, done <-chan struct{}) {
	methods := []string{"StartWorkspace", "DescribeWorkspace", "GetWorkspaces", "Subscribe"}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		switch r.IntN(12) {
		case 0:
			e.m.DropSubscriptions()
		case 1:
			e.m.Mute(true)
		case 2, 3:
			e.m.Mute(false)
		case 4:
			e.m.Fail(methods[r.IntN(len(methods))], status.Error([]codes.Code{codes.Unavailable, codes.Aborted, codes.DeadlineExceeded}[r.IntN(3)], "fault"), r.IntN(4))
		case 5:
			e.m.Hold()
		case 6, 7:
			e.m.Release(func(s []*wsman.WorkspaceStatus) { r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] }) })
		case 8:
			e.m.Strip(func(s *wsman.WorkspaceStatus) { s.Auth, s.Metadata, s.Spec = nil, nil, nil })
		case 9:
			e.m.Strip(func(s *wsman.WorkspaceStatus) { s.Conditions, s.StatusVersion = nil, 0 })
		case 10:
			e.m.Strip(nil)
		case 11:
			e.m.Down()
			e.m.Up()
		}
	}
}

// campaignBuild runs one build and plays its workspace.
func (e *env) campaignBuild(r *rand.Rand, i int) {
	w := dockerfileWorkload()
	w.BuildID = fmt.Sprintf("11111111-2222-4333-8444-5555555555%02d", i)
	w.Ref, w.BaseRef = fmt.Sprintf("registry.example/w:%d", i), fmt.Sprintf("registry.example/b:%d", i)
	fails := r.IntN(3) == 0
	want := lines(i, r.IntN(200))

	type end struct {
		out workload.Outcome
		err error
	}
	s, ended := newSink(), make(chan end, 1)
	go func() {
		out, err := e.rt.Run(e.ctx, w, s)
		ended <- end{out, err}
	}()
	e.m.AwaitWorkspace(e.ctx, w.BuildID)
	ws := e.sup.Workspace(w.BuildID)
	ws.Open()
	for rest := want; rest != ""; {
		n := min(len(rest), 1+r.IntN(1000))
		_, _ = ws.Write([]byte(rest[:n]))
		if rest = rest[n:]; r.IntN(3) == 0 {
			ws.Drop()
		}
		if r.IntN(4) == 0 {
			e.m.Phase(w.BuildID, wsman.WorkspacePhase(2+r.IntN(3)))
		}
	}
	ws.Close()
	if !fails {
		e.img.push(w.Ref, w.BaseRef)
	}
	task := ""
	if fails {
		task = "exit code 1"
	}
	e.m.Update(w.BuildID, func(s *wsman.WorkspaceStatus) {
		s.Phase, s.Conditions.HeadlessTaskFailed = wsman.WorkspacePhase_STOPPING, task
	})
	e.m.Update(w.BuildID, func(s *wsman.WorkspaceStatus) {
		s.Phase, s.Conditions.HeadlessTaskFailed = wsman.WorkspacePhase_STOPPED, task
	})
	got := <-ended
	var blame imagebuilderv1.Blame
	if f := (*workload.Failure)(nil); errors.As(got.err, &f) {
		blame = f.Blame
	}
	if fails && blame != builds.BlameUser || !fails && (got.err != nil || got.out.Digest != digestA) {
		e.t.Errorf("build %d, fails %v: %+v, %v", i, fails, got.out, got.err)
	}
	if log := s.text(); log != want {
		e.t.Errorf("build %d: log of %d bytes, want %d: %q", i, len(log), len(want), strings.ReplaceAll(log[max(0, len(log)-200):], "\n", "|"))
	}
}
