package clock

import (
	"slices"
	"time"
)

// maxSlew is the part by which the time of a term may run faster or slower than the monotonic
// clock: 1/16, so that it makes up for one minute in 16 minutes.
const maxSlew = 16

// View is what a leader knows about the present from its own clock and those of the other
// nodes. The present is between low and high after the leader's own clock.
type View struct {
	wall      int64         // the leader's clock, in nanoseconds since the Unix epoch
	low, high time.Duration // both are 0 unless other clocks contradict the leader's
	confirmed bool          // most clocks agree with the leader's
}

// Judge compares the leader's clock with the clocks of the other nodes that respond. others holds
// how far each of them is ahead of the leader's. A difference up to limit does not count.
//
// With three or more clocks the median is right. With two clocks that disagree, nobody can know
// which one is right. Then the present is anywhere between them: a term begins at the earlier one,
// because a time that is ahead would end builds and remove history.
func Judge(wall int64, others []time.Duration, limit time.Duration) View {
	v := View{wall: wall}
	switch len(others) {
	case 0:
	case 1:
		if v.confirmed = others[0].Abs() <= limit; !v.confirmed {
			v.low, v.high = min(others[0], 0), max(others[0], 0)
		}
	default:
		m := Median(append(others, 0))
		if v.confirmed = m.Abs() <= limit; !v.confirmed {
			v.low, v.high = m, m
		}
	}
	return v
}

// Median returns the median, and the smaller one of the two in the middle of an even number.
func Median(all []time.Duration) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[(len(all)-1)/2]
}

// earliest returns the earliest time that may be the present, in nanoseconds since the Unix epoch.
func (v View) earliest() int64 { return v.wall + int64(v.low) }

// next returns the time that follows last after elapsed. wall is the leader's clock now. Outside of
// the view the time runs faster or slower by 1/maxSlew, until it is back inside.
func (v View) next(last int64, elapsed time.Duration, wall int64) int64 {
	next, slew := last+int64(elapsed), int64(elapsed)/maxSlew
	switch low, high := wall+int64(v.low), wall+int64(v.high); {
	case next < low:
		return min(next+slew, low)
	case next > high:
		return max(next-slew, high)
	}
	return next
}
