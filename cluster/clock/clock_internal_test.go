package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

// testClock is a clock of a machine whose wall clock and suspends a test controls.
type testClock struct {
	*Clock
	wallAhead, slept time.Duration
}

func newTestClock() *testClock {
	c := &testClock{}
	c.Clock = New(c.wall)
	c.suspended = func() time.Duration { return c.slept }
	c.Begin(0, c.view())
	return c
}

func (c *testClock) wall() time.Time { return time.Now().Add(c.wallAhead) }

// view returns a view of this clock and of others, which are ahead of it.
func (c *testClock) view(others ...time.Duration) View {
	return Judge(c.wall().UnixNano(), others, 5*time.Second)
}

// checkAhead checks how far the next stamp is ahead of the simulated time.
func (c *testClock) checkAhead(t *testing.T, when string, want time.Duration) {
	t.Helper()
	if got := time.Duration(c.Stamp() - time.Now().UnixNano()); got != want {
		t.Errorf("%s the stamp is %s ahead, want %s", when, got, want)
	}
}

func Test_Clock_GoesOnBehindTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClock()
		c.Begin(time.Now().Add(time.Hour).UnixNano(), c.view())
		c.checkAhead(t, "at the start of a term after a leader whose clock was ahead", time.Hour)
		time.Sleep(16 * time.Minute)
		c.checkAhead(t, "after 16 minutes", 59*time.Minute)
		time.Sleep(24 * time.Hour)
		c.checkAhead(t, "after a day", 0)
	})
}

func Test_Clock_ForgetsStampsThatWereNotApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClock()
		c.wallAhead = time.Hour
		c.Begin(0, c.view())
		c.checkAhead(t, "in a term of a wrong clock", time.Hour)
		c.wallAhead = 0
		c.Begin(time.Now().UnixNano(), c.view())
		c.checkAhead(t, "in a term after it", 0)
	})
}

// Test_Clock_Suspend suspends the machine: the clock of the machine goes on, the monotonic clock,
// which is the simulated time here, does not.
func Test_Clock_Suspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClock()
		time.Sleep(time.Minute)
		c.wallAhead, c.slept = time.Hour, time.Hour
		c.checkAhead(t, "after the suspend", time.Hour)
		time.Sleep(time.Minute)
		c.checkAhead(t, "a minute later", time.Hour)
		c.wallAhead, c.slept = 2*time.Hour, 2*time.Hour
		c.checkAhead(t, "after a second suspend", 2*time.Hour)
		c.slept += time.Millisecond
		c.checkAhead(t, "after an error of the measurement", 2*time.Hour)
	})
}

// Test_Clock_JumpOfTheMachine lets the clock of the machine jump during a term. The time follows at
// once only if the other clocks agree, and never goes back.
func Test_Clock_JumpOfTheMachine(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			c := newTestClock()
			c.Adjust(c.view(0, 0))
			c.wallAhead = jump
			c.checkAhead(t, "after the jump", 0)
			c.Adjust(c.view())
			c.checkAhead(t, "without other clocks", 0)
			c.Adjust(c.view(-jump, -jump))
			c.checkAhead(t, "if the others disagree", 0)
			c.Adjust(c.view(-jump))
			c.checkAhead(t, "if the only other one disagrees", 0)
			c.Adjust(c.view(0, 0))
			c.checkAhead(t, "if the others agree", max(jump, 0))
		})
		synctest.Test(t, func(t *testing.T) {
			c := newTestClock()
			c.wallAhead = jump
			time.Sleep(16 * time.Minute)
			c.checkAhead(t, "a while after the jump of an only clock", jump/60)
		})
	}
}

func Test_JudgeClocks(t *testing.T) {
	const limit = 5 * time.Second
	for name, c := range map[string]struct {
		others    []time.Duration
		low, high time.Duration
		confirmed bool
	}{
		"no other clock":                         {},
		"one that agrees":                        {others: []time.Duration{limit}, confirmed: true},
		"one that is ahead":                      {others: []time.Duration{limit + 1}, high: limit + 1},
		"one that is behind":                     {others: []time.Duration{-limit - 1}, low: -limit - 1},
		"one of two agrees":                      {others: []time.Duration{time.Hour, 1}, confirmed: true},
		"two that are ahead":                     {others: []time.Duration{time.Hour, 2 * time.Hour}, low: time.Hour, high: time.Hour},
		"one is ahead, one is behind":            {others: []time.Duration{time.Hour, -time.Hour}, confirmed: true},
		"one of three agrees, two are ahead":     {others: []time.Duration{0, time.Hour, time.Hour}, confirmed: true},
		"one of three agrees, two are behind":    {others: []time.Duration{0, -time.Hour, -time.Hour}, low: -time.Hour, high: -time.Hour},
		"three of four are ahead, by a lot each": {others: []time.Duration{0, time.Hour, 2 * time.Hour, 3 * time.Hour}, low: time.Hour, high: time.Hour},
	} {
		want := View{wall: 7, low: c.low, high: c.high, confirmed: c.confirmed}
		if got := Judge(7, c.others, limit); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// Test_ClockView_BetweenTwoClocks checks that the time goes on at the rate of the monotonic clock
// while nobody can know which of two clocks is right.
func Test_ClockView_BetweenTwoClocks(t *testing.T) {
	wall := time.Now().UnixNano()
	for _, other := range []time.Duration{time.Hour, -time.Hour} {
		v := Judge(wall, []time.Duration{other}, time.Second)
		last := wall + int64(other/2)
		if got := time.Duration(v.next(last, time.Second, wall) - last); got != time.Second {
			t.Errorf("the time goes on by %s in a second", got)
		}
	}
}

// Test_Suspended_IsSteady checks that the real measurement does not take other delays for a suspend.
func Test_Suspended_IsSteady(t *testing.T) {
	first := suspended()
	for range 1000 {
		if d := suspended() - first; d.Abs() >= time.Second {
			t.Fatalf("the machine seems to have been suspended for %s", d)
		}
	}
}
