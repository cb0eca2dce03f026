// Package faults lets tests hurt a running node from outside: its clock, its
// disk and its messages to chosen peers. Without the build tag `faults` all of
// it is empty and costs nothing.
package faults
