package cluster

import (
	"testing"
	"time"
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
