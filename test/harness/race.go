//go:build race

package harness

// raceEnabled means that nodes are compiled with the race detector, like the tests.
const raceEnabled = true
