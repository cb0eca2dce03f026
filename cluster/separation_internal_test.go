package cluster

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

func Test_Separation(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		s    separation
		want bool
	}{
		"nothing is wrong":                                {separation{heard: 20 * ms, knew: true, majority: true, elsewhere: true}, false},
		"another member hears the leader":                 {separation{heard: 500 * ms, knew: true, majority: true, elsewhere: true}, true},
		"another member hears the leader, not yet":        {separation{heard: 499 * ms, knew: true, majority: true, elsewhere: true}, false},
		"an election":                                     {separation{heard: 2999 * ms, unanswered: 2999 * ms, knew: true, majority: true}, false},
		"no election succeeds":                            {separation{heard: 3000 * ms, knew: true, majority: true}, true},
		"requests of a node that never heard":             {separation{heard: 2999 * ms, unanswered: 3000 * ms}, true},
		"isolated":                                        {separation{heard: 800 * ms, knew: true}, true},
		"isolated, not yet":                               {separation{heard: 799 * ms, knew: true}, false},
		"a node that starts before the others":            {separation{heard: 2999 * ms}, false},
		"isolated, but this process did not run":          {separation{heard: 2999 * ms, knew: true, late: true}, false},
		"this process did not run for long":               {separation{heard: 3000 * ms, knew: true, late: true}, true},
		"requests do not arrive at the leader":            {separation{heard: 20 * ms, unanswered: 1000 * ms, knew: true, majority: true}, true},
		"requests do not arrive at the leader, not yet":   {separation{heard: 20 * ms, unanswered: 999 * ms, knew: true, majority: true, elsewhere: true}, false},
		"requests to a leader that nobody hears any more": {separation{heard: 700 * ms, unanswered: 1000 * ms, knew: true, majority: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.s.reason(1); got != "" != c.want {
				t.Errorf("reason %q, want separated %t", got, c.want)
			}
			late := c.s // twice as slow
			late.heard, late.unanswered = 2*c.s.heard, 2*c.s.unanswered
			if got := late.reason(2); got != "" != c.want {
				t.Errorf("with twice the timeouts: reason %q, want separated %t", got, c.want)
			}
		})
	}
}

func Test_Separation_WhatAMemberReports(t *testing.T) {
	report := func(contact time.Duration, leader *string) *clusterv1.PingResponse {
		return &clusterv1.PingResponse{LastContactNanos: int64(contact), Leader: leader, Term: 7}
	}
	const self, fresh = "n0/a", 100 * time.Millisecond
	for name, c := range map[string]struct {
		res  *clusterv1.PingResponse
		want bool
	}{
		"it follows another node":           {report(time.Millisecond, proto.String("n2/c")), true},
		"it has heard nothing for too long": {report(fresh, proto.String("n2/c")), false},
		"it has never heard a leader":       {report(-1, proto.String("n2/c")), false},
		"it has voted and waits":            {report(time.Millisecond, proto.String("")), false},
		"it follows this node":              {report(time.Millisecond, proto.String(self)), false},
		"a former version":                  {report(time.Millisecond, nil), true},
	} {
		if got := hearsLeader(c.res, self, fresh); got != c.want {
			t.Errorf("%s: hears a leader is %t", name, got)
		}
	}
	if p := (memberPing{id: "n2/c", res: report(-1, proto.String("n2/c"))}); !leads(p, "", 7) || leads(p, "n2/c", 8) {
		t.Error("a member leads in its term only")
	}
}
