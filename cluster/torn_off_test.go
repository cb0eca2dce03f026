//go:build !faults

package cluster_test

func tear(uint64) {}
