package cluster

import (
	"testing"
	"time"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_StallOf: the report with the greatest age counts. A node that reports nothing, as versions up
// to 0.3.0 do, makes progress.
func Test_StallOf(t *testing.T) {
	for _, c := range []struct {
		report *clusterv1.Progress
		want   string
	}{
		{nil, ""},
		{&clusterv1.Progress{}, ""},
		{&clusterv1.Progress{RaftWriteNanos: int64(time.Minute)}, "a write of the replicated log has been in progress for 1m0s"},
		{&clusterv1.Progress{RaftWriteNanos: 1, LogWriteNanos: int64(7 * time.Second)}, "a write of a log of a build has been in progress for 7s"},
		{&clusterv1.Progress{ApplyNanos: int64(5 * time.Second), LogWriteNanos: 1}, "the application of a command has been in progress for 5s"},
	} {
		if got := stallOf(c.report).String(); got != c.want {
			t.Errorf("%v: %q, want %q", c.report, got, c.want)
		}
	}
}
