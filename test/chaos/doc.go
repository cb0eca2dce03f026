// Package chaos injects faults into clusters of real processes, each in its own network namespace.
// A seed determines the schedule of faults. Meanwhile the package verify puts load on the cluster
// and checks every response. The tests need the build tag faults.
package chaos
