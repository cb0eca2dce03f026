package wsmanager

import (
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

const (
	phaseRunning  = wsman.WorkspacePhase_RUNNING
	phaseStopping = wsman.WorkspacePhase_STOPPING
	phaseStopped  = wsman.WorkspacePhase_STOPPED
)

func update(p wsman.WorkspacePhase, version uint64, failed string) *wsman.WorkspaceStatus {
	return &wsman.WorkspaceStatus{Phase: p, StatusVersion: version, Conditions: &wsman.WorkspaceConditions{Failed: failed}}
}

func Test_View_Merge(t *testing.T) {
	for name, c := range map[string]struct {
		updates []*wsman.WorkspaceStatus
		answer  *wsman.WorkspaceStatus // a later response to a query
		phase   wsman.WorkspacePhase
		failed  string
		verdict verdict
	}{
		"nothing":                             {verdict: ongoing},
		"an older one comes later":            {updates: []*wsman.WorkspaceStatus{update(phaseStopping, 5, ""), update(phaseRunning, 4, "")}, phase: phaseStopping, verdict: stopping},
		"stopping twice":                      {updates: []*wsman.WorkspaceStatus{update(phaseStopping, 5, ""), update(phaseStopping, 6, "")}, phase: phaseStopping, verdict: stopping},
		"no versions, back":                   {updates: []*wsman.WorkspaceStatus{update(phaseStopping, 0, ""), update(phaseRunning, 0, "")}, phase: phaseStopping, verdict: stopping},
		"no versions, on":                     {updates: []*wsman.WorkspaceStatus{update(phaseRunning, 0, ""), update(phaseStopping, 0, "")}, phase: phaseStopping, verdict: stopping},
		"interrupted and back":                {updates: []*wsman.WorkspaceStatus{update(wsman.WorkspacePhase_INTERRUPTED, 5, ""), update(phaseRunning, 6, "")}, phase: phaseRunning, verdict: ongoing},
		"stopped is final":                    {updates: []*wsman.WorkspaceStatus{update(phaseStopped, 5, ""), update(phaseRunning, 6, "")}, phase: phaseStopped, verdict: ended},
		"stopped is final for responses, too": {updates: []*wsman.WorkspaceStatus{update(phaseStopped, 5, "")}, answer: update(phaseRunning, 6, ""), phase: phaseStopped, verdict: ended},
		"stopped counts with an old version":  {updates: []*wsman.WorkspaceStatus{update(phaseRunning, 50, ""), update(phaseStopped, 1, "")}, phase: phaseStopped, verdict: ended},
		"a response restarts the versions":    {updates: []*wsman.WorkspaceStatus{update(phaseStopping, 50, "")}, answer: update(phaseRunning, 1, ""), phase: phaseRunning, verdict: ongoing},
		"failed and then not":                 {updates: []*wsman.WorkspaceStatus{update(phaseStopping, 5, "x"), update(phaseStopped, 6, "")}, phase: phaseStopped, failed: "x", verdict: ended},
		"failed while stopping":               {updates: []*wsman.WorkspaceStatus{update(phaseStopping, 5, "x")}, phase: phaseStopping, failed: "x", verdict: ended},
		"failed in an old update":             {updates: []*wsman.WorkspaceStatus{update(phaseStopped, 6, ""), update(phaseStopping, 5, "x")}, phase: phaseStopped, failed: "x", verdict: ended},
		"failed while running":                {updates: []*wsman.WorkspaceStatus{update(phaseRunning, 5, "x")}, phase: phaseRunning, verdict: ongoing},
		"stopped without conditions":          {updates: []*wsman.WorkspaceStatus{{Phase: phaseStopped}}, phase: phaseStopped, verdict: unexplained},
		"unknown says nothing":                {updates: []*wsman.WorkspaceStatus{update(phaseRunning, 5, ""), update(wsman.WorkspacePhase_UNKNOWN, 6, "")}, phase: phaseRunning, verdict: ongoing},
	} {
		var v view
		for _, u := range c.updates {
			v = v.merge(u, false)
		}
		if c.answer != nil {
			v = v.merge(c.answer, true)
		}
		if v.phase != c.phase || v.failed != c.failed || v.judge() != c.verdict {
			t.Errorf("%s: %v, failed %q, verdict %d; want %v, %q, %d", name, v.phase, v.failed, v.judge(), c.phase, c.failed, c.verdict)
		}
	}
}

// Test_View_Access checks that an old update adds missing values and replaces none.
func Test_View_Access(t *testing.T) {
	with := func(version uint64, url, token string) *wsman.WorkspaceStatus {
		return &wsman.WorkspaceStatus{StatusVersion: version, Spec: &wsman.WorkspaceSpec{Url: url}, Auth: &wsman.WorkspaceAuthentication{OwnerToken: token}}
	}
	v := view{}.merge(with(5, "new", ""), false).merge(with(4, "old", "old"), false)
	if v.url != "new" || v.token != "old" {
		t.Errorf("%q, %q", v.url, v.token)
	}
	if v = v.merge(with(6, "newer", "newer"), false); v.url != "newer" || v.token != "newer" {
		t.Errorf("%q, %q", v.url, v.token)
	}
	if v = v.merge(&wsman.WorkspaceStatus{StatusVersion: 7}, false); v.url != "newer" || v.token != "newer" {
		t.Errorf("%q, %q after an update without them", v.url, v.token)
	}
}

func Test_View_Missing(t *testing.T) {
	at := time.Unix(1000, 0)
	v := view{seen: true, phase: phaseRunning}.missing(at, time.Minute)
	if v = v.missing(at.Add(59*time.Second), time.Minute); v.judge() != ongoing {
		t.Errorf("after 59 s: %d", v.judge())
	}
	if back := v.merge(update(phaseRunning, 1, ""), true).missing(at.Add(time.Minute), time.Minute); back.judge() != ongoing {
		t.Errorf("it was back, but: %d", back.judge())
	}
	if v = v.missing(at.Add(time.Minute), time.Minute); v.judge() != lost {
		t.Errorf("after a minute: %d", v.judge())
	}
	for phase, want := range map[wsman.WorkspacePhase]verdict{phaseStopping: ended, phaseStopped: ended, phaseRunning: lost, 0: lost} {
		if got := (view{phase: phase, gone: true}).judge(); got != want {
			t.Errorf("gone while %v: %d, want %d", phase, got, want)
		}
	}
}
