package cluster

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

func Test_SilentLeader_Turns(t *testing.T) {
	const silence, ms = 600 * time.Millisecond, time.Millisecond
	c := candidate{id: "n1/a", lastTerm: 3, lastIndex: 7}
	for _, d := range []candidate{
		{id: "n2/a", lastTerm: 3, lastIndex: 7}, {id: "n0/a", lastTerm: 3, lastIndex: 6}, {id: "n0/a", lastTerm: 2, lastIndex: 9},
	} {
		if !c.before(d) || d.before(c) {
			t.Errorf("%+v does not come before %+v", c, d)
		}
	}
	if d := turn(nil, silence); d != 0 {
		t.Errorf("the first candidate waits %s", d)
	}
	// It heard the leader 80 ms after this node, which has not heard it for the whole silence.
	if d := turn([]candidate{{contact: 520 * ms}}, silence); d != 80*ms+reachInterval+logStagger {
		t.Errorf("the second candidate waits %s", d)
	}
	if d := turn([]candidate{{contact: 700 * ms}, {contact: -1}}, silence); d < reachInterval+2*logStagger {
		t.Errorf("the third candidate waits %s", d)
	}
}

// Test_SilentLeader_HearsNone: a node that returns, and does not know the leader of the term, must not
// take the leader for a voter that hears no leader.
func Test_SilentLeader_HearsNone(t *testing.T) {
	const term, lease = 7, 500 * time.Millisecond
	of := func(leader string) *string { return &leader }
	for name, c := range map[string]struct {
		reports *string // leader; nil in versions up to 0.3.0
		contact time.Duration
		term    uint64
		knows   raft.ServerID // leader that this node knows
		want    bool
	}{
		"the leader, which has followed before":            {of("n2/c"), time.Hour, term, "", false},
		"the leader, which has never followed":             {of("n2/c"), -1, term, "", false},
		"a member that has lost the leader":                {of("n0/a"), lease, term, "n0/a", true},
		"a member that has lost the leader, unknown here":  {of("n0/a"), lease, term, "", true},
		"a member that hears the leader":                   {of("n0/a"), lease - 1, term, "", false},
		"a member that handles the first message":          {of("n0/a"), -1, term, "", false},
		"a member that returns as well":                    {of(""), time.Minute, term, "", true},
		"a member that has just started":                   {of(""), -1, term, "", true},
		"a member in another term":                         {of(""), time.Minute, term + 1, "", false},
		"a member of 0.3.0, or the leader":                 {nil, time.Minute, term, "", false},
		"a member of 0.3.0 that has lost the known leader": {nil, time.Minute, term, "n0/a", true},
		"a member of 0.3.0 that hears the leader":          {nil, lease - 1, term, "n0/a", false},
	} {
		p := memberPing{id: "n2/c", res: &clusterv1.PingResponse{Leader: c.reports, Term: c.term, LastContactNanos: int64(c.contact)}}
		if got := hearsNone(p, term, c.knows, lease); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func Test_SilentLeader_ALateProcessProvesNothing(t *testing.T) {
	now := time.Unix(0, 0)
	p := punctual{since: now, last: now}
	step := func(d time.Duration) time.Duration {
		now = now.Add(d)
		return p.check(now)
	}
	for i := range 20 {
		if got, want := step(reachInterval), time.Duration(i+1)*reachInterval; got != want {
			t.Fatalf("after %d checks in time: %s, want %s", i+1, got, want)
		}
	}
	if got := step(reachInterval + lateLimit + 1); got != 0 {
		t.Errorf("after a late check: %s, want 0", got)
	}
	if got := step(reachInterval); got != reachInterval {
		t.Errorf("after the next check: %s, want %s", got, reachInterval)
	}
}
