package wsmanager_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Trouble_DoesNotFlicker: what is told about a ws-manager that is away
// stays through every attempt to reach it, and ends once it answers.
func Test_Trouble_DoesNotFlicker(t *testing.T) {
	for name, fault := range map[string]struct{ begin, end func(*wsmanagertest.Manager) }{
		"down": {(*wsmanagertest.Manager).Down, (*wsmanagertest.Manager).Up},
		"it answers UNAVAILABLE": {
			func(m *wsmanagertest.Manager) {
				m.Fail(wsmanagertest.Subscribe, status.Error(codes.Unavailable, "later"), -1)
				m.DropSubscriptions()
			},
			func(m *wsmanagertest.Manager) { m.Fail(wsmanagertest.Subscribe, nil, 0) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.m.AwaitSubscription(e.ctx)
			if err := e.rt.Trouble(); err != nil {
				t.Fatalf("trouble with a ws-manager that answers: %v", err)
			}
			fault.begin(e.m)
			testkit.Eventually(e.t, time.Minute, "the trouble is told", func() bool { return e.rt.Trouble() != nil })
			// The pauses between attempts are 10 ms at most here.
			looks, tick := 0, time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for range 200 {
				<-tick.C
				if e.rt.Trouble() == nil {
					looks++
				}
			}
			if looks > 0 {
				t.Errorf("at %d of 200 looks there was no trouble", looks)
			}
			fault.end(e.m)
			testkit.Eventually(e.t, time.Minute, "the trouble is over", func() bool { return e.rt.Trouble() == nil })
		})
	}
}

// Test_Workspaces names the workload of those that can be ours, and lists the
// others too.
func Test_Workspaces(t *testing.T) {
	e := newEnv(t)
	const other = "99999999-2222-4333-8444-555555555501"
	e.m.Update(other, func(s *wsman.WorkspaceStatus) {
		s.Phase = wsman.WorkspacePhase_RUNNING
		s.Metadata = &wsman.WorkspaceMetadata{MetaId: "11111111-2222-4333-8444-555555555501", Annotations: map[string]string{"managed-by": "image-builder", "ref": "r:1"}}
	})
	got, err := e.rt.Workspaces(e.ctx)
	if err != nil || len(got) != 1 || got[0].ID != other || got[0].Workload != "" || got[0].Ref != "r:1" || got[0].Phase != "RUNNING" {
		t.Errorf("%+v, %v", got, err)
	}
	if names, err := e.rt.List(e.ctx); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
}
