// Package faults injects faults into a running node: into its clock, its disk and its messages to
// chosen peers. Without the build tag faults, all functions are empty and cost nothing.
package faults
