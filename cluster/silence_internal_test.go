package cluster

import (
	"testing"
	"time"
)

func Test_Silence(t *testing.T) {
	const election = 2 * time.Second
	var s silence
	start := time.Now()
	for _, step := range []struct {
		at          time.Duration
		stuck, want bool
	}{
		{0, false, false},
		{time.Second, true, true},
		{2 * time.Second, false, true},
		{3 * time.Second, false, false},
		{4 * time.Second, false, false},
		{5 * time.Second, true, true},
		{60 * time.Second, true, true},
		{61 * time.Second, false, false},
	} {
		if got := s.next(start.Add(step.at), step.stuck, election); got != step.want {
			t.Errorf("after %s, stuck: %v: silent: %v, want %v", step.at, step.stuck, got, step.want)
		}
	}
}
