package node

import (
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// Test_Readiness follows the readiness of a node through losses of its leader.
func Test_Readiness(t *testing.T) {
	leader, none := cluster.Status{LeaderID: "a/1", LeaderName: "a"}, cluster.Status{}
	late := leader
	late.Behind = lagLimit + 1
	r := &readiness{readyAfter: 2 * time.Second, lostTimeout: 5 * time.Second}
	begin := time.Unix(1_000_000, 0)
	for _, step := range []struct {
		at   time.Duration
		see  cluster.Status
		want string // part of the reason; empty if the node is ready
	}{
		{0, none, "no leader is known"},
		{time.Second, leader, "is known for 0s only"},
		{2 * time.Second, leader, "is known for 1s only"},
		{3 * time.Second, leader, ""},
		{4 * time.Second, none, ""},               // an election
		{8 * time.Second, none, ""},               // within lostTimeout
		{9 * time.Second, leader, ""},             // ready at once
		{10 * time.Second, none, ""},              // the leader is lost again
		{15 * time.Second, none, ""},              // at the limit
		{16 * time.Second, none, "no leader"},     // longer than lostTimeout
		{17 * time.Second, leader, "for 0s only"}, // readyAfter begins again
		{19 * time.Second, leader, ""},
		{20 * time.Second, late, "1001 entries"},
	} {
		got := strings.Join(r.reasons(begin.Add(step.at), step.see), "; ")
		if (got == "") != (step.want == "") || !strings.Contains(got, step.want) {
			t.Errorf("after %s: reasons %q, want %q", step.at, got, step.want)
		}
	}
}
