package testkit

import "os"

// Soak reports whether tests run with the numbers that the documentation claims. Otherwise some run
// with smaller numbers that find the same faults in less time. `make soak` sets SOAK in the
// environment.
func Soak() bool { return os.Getenv("SOAK") != "" }

// InSoak returns full with Soak and short without.
func InSoak(full, short int) int {
	if Soak() {
		return full
	}
	return short
}
