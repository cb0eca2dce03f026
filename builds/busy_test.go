package builds_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// retryAfter returns when a refused request should be repeated, or 0 if the error is another one.
func retryAfter(err, want error) time.Duration {
	var busy *builds.BusyError
	if !errors.Is(err, want) || !errors.As(err, &busy) {
		return 0
	}
	return busy.RetryAfter
}

// Test_Create_LimitsTheQueueOfARequester checks the limit, that others are not concerned, that a
// request which joins a build needs no place, and that a build which starts makes room.
func Test_Create_LimitsTheQueueOfARequester(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	set := builds.DefaultSettings()
	set.QueuePerRequester = 2
	m.Must(&buildsv1.PutSettings{Settings: set})
	first := m.Create("r:1").Build.Id
	m.Create("r:2")
	if res := m.Create("r:3"); retryAfter(res.Err, builds.ErrRequesterQueueFull) != 10*time.Second {
		t.Errorf("the third build: %v", res.Err)
	}
	if res := m.Create("r:3", buildstest.By("bob")); res.Err != nil {
		t.Errorf("a build of another requester: %v", res.Err)
	}
	if res := m.Create("r:3"); res.Err != nil || !res.Attached {
		t.Errorf("a request that joins a build: %v", res.Err)
	}
	m.Assign(first)
	if res := m.Create("r:4"); res.Err != nil {
		t.Errorf("after a build has started: %v", res.Err)
	}
}

// Test_Create_NoLimitOfARequesterBelowItsLevel checks that a version which does not know the limit
// holds the same state.
func Test_Create_NoLimitOfARequesterBelowItsLevel(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 4})
	set := builds.DefaultSettings()
	set.QueuePerRequester = 1
	m.Must(&buildsv1.PutSettings{Settings: set})
	for i := range 3 {
		if res := m.Create(fmt.Sprint("r:", i)); res.Err != nil {
			t.Errorf("build %d: %v", i, res.Err)
		}
	}
}

// Test_Create_RetryAfter checks that the time follows the pace at which builds end: those of the
// requester if its own limit is reached, otherwise those of all.
func Test_Create_RetryAfter(t *testing.T) {
	for title, c := range map[string]struct {
		pace  time.Duration
		ended int
		want  time.Duration
	}{
		"no build has ended":  {0, 0, 10 * time.Second},
		"one has ended":       {time.Second, 1, 10 * time.Second},
		"one in five seconds": {5 * time.Second, 40, 5 * time.Second},
		"many each second":    {10 * time.Millisecond, 40, time.Second},
		"one in an hour":      {time.Hour, 10, time.Minute},
	} {
		t.Run(title, func(t *testing.T) {
			m := buildstest.NewMachine(t)
			m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
			for i := range c.ended {
				m.Succeed(m.Create(fmt.Sprint("r:", i)).Build.Id)
				m.Now = m.Now.Add(c.pace)
				for j := range 20 {
					m.Succeed(m.Create(fmt.Sprint("r:", i, "-", j), buildstest.By("bob")).Build.Id)
				}
			}
			set := builds.DefaultSettings()
			set.QueuePerRequester = 1
			m.Must(&buildsv1.PutSettings{Settings: set})
			m.Create("r:queued")
			if got := retryAfter(m.Create("r:refused").Err, builds.ErrRequesterQueueFull); got != c.want {
				t.Errorf("the requester's limit: try again in %s, want %s", got, c.want)
			}
			set.QueuePerRequester, set.QueueTotal = 0, 1
			m.Must(&buildsv1.PutSettings{Settings: set})
			if got := retryAfter(m.Create("r:refused").Err, builds.ErrQueueFull); got == 0 || got > c.want {
				t.Errorf("the limit of all: try again in %s, want at most %s", got, c.want)
			}
		})
	}
}
