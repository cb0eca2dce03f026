// Package chaos breaks clusters of real processes, each on a network namespace
// of its own, by schedules that a seed decides, while verify uses and judges
// them. It needs the build tag faults.
package chaos
