package wsmanager_test

import (
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
)

// Test_Trouble_DoesNotFlicker checks that the health problem of an unavailable ws-manager stays
// during all attempts to connect, and ends once ws-manager responds.
func Test_Trouble_DoesNotFlicker(t *testing.T) {
	for name, fault := range map[string]struct{ begin, end func(*wsmanagertest.Manager) }{
		"down": {(*wsmanagertest.Manager).Down, (*wsmanagertest.Manager).Up},
		"it returns UNAVAILABLE": {
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
				t.Fatalf("health problem with a responding ws-manager: %v", err)
			}
			fault.begin(e.m)
			testkit.Eventually(e.t, 10*time.Second, "the health problem is reported", func() bool { return e.rt.Trouble() != nil })
			// Here the pauses between attempts are at most 10 ms.
			misses, tick := 0, time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for range 200 {
				<-tick.C
				if e.rt.Trouble() == nil {
					misses++
				}
			}
			if misses > 0 {
				t.Errorf("%d of 200 checks found no health problem", misses)
			}
			fault.end(e.m)
			testkit.Eventually(e.t, 10*time.Second, "the health problem is over", func() bool { return e.rt.Trouble() == nil })
		})
	}
}

// Test_Workspaces checks that the workspaces that may be ours have a workload name, and that the
// others are listed, too.
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
