//go:build race

package harness

// raceEnabled says that nodes are compiled with the race detector, as the
// tests are.
const raceEnabled = true
