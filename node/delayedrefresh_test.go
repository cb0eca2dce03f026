package node

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Test_DelayedRefreshes checks that a reference is due twice after a notification, and that a
// second notification starts its times again.
func Test_DelayedRefreshes(t *testing.T) {
	var l delayedRefreshes
	begin := time.Unix(1000, 0)
	after := func(d time.Duration, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, l.takeDue(begin.Add(d))); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", d, diff)
		}
	}
	after(0)
	l.add([]string{"b", "a"}, begin)
	after(999 * time.Millisecond)
	after(time.Second, "a", "b")
	after(time.Second)
	l.add([]string{"a"}, begin.Add(5*time.Second))
	after(6*time.Second, "a")
	after(10*time.Second, "b")
	after(15*time.Second, "a")
	after(time.Hour)
}
