package kubernetes

import (
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

// Test_Stall: only the time counts in which the spool may be full and the copies make no progress.
func Test_Stall(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		stored, held []int64 // MiB at each second; the spool has 16
		want         []int   // seconds
	}{
		"full":             {[]int64{16, 16, 16}, []int64{0, 0, 0}, []int{0, 1, 2}},
		"full, later":      {[]int64{8, 12, 13, 14}, []int64{0, 0, 0, 0}, []int{0, 0, 1, 2}},
		"a slow copy":      {[]int64{16, 16, 16, 16}, []int64{0, 1, 2, 2}, []int{0, 0, 0, 1}},
		"room":             {[]int64{12, 12, 12}, []int64{0, 0, 0}, []int{0, 0, 0}},
		"the copy is back": {[]int64{16, 16, 16, 17}, []int64{0, 0, 16, 16}, []int{0, 1, 0, 0}},
	} {
		begin := time.Unix(0, 0)
		s := stall{job: &podapi.Job{}, begin: begin}
		for i, want := range c.want {
			if got := s.lasts(begin.Add(time.Duration(i)*time.Second), c.stored[i]*mib, c.held[i]*mib); got != time.Duration(want)*time.Second {
				t.Errorf("%s: %v after %d s, want %d s", name, got, i, want)
			}
		}
	}
}
