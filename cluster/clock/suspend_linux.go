package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// suspended returns how long the machine has been suspended since its boot: CLOCK_BOOTTIME includes
// that time, CLOCK_MONOTONIC does not. The error is below a millisecond, unless this process is
// interrupted in each of several attempts.
func suspended() time.Duration {
	best := time.Duration(0)
	shortest := time.Duration(-1)
	for range 3 {
		before, boot, after := readClock(unix.CLOCK_MONOTONIC), readClock(unix.CLOCK_BOOTTIME), readClock(unix.CLOCK_MONOTONIC)
		if took := after - before; shortest < 0 || took < shortest {
			best, shortest = boot-before, took
		}
		if shortest < time.Millisecond {
			break
		}
	}
	return best
}

func readClock(id int32) time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(id, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
