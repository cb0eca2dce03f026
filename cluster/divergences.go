package cluster

import (
	"sync"
	"sync/atomic"
	"time"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// maxRepairs is how often a node replaces its state within repairWindow. A state that differs again
// at once has a lasting cause, which another replacement would not remove.
const (
	maxRepairs   = 3
	repairWindow = time.Hour
)

// divergences holds what a node knows about its own state in comparison with that of the others.
type divergences struct {
	found    atomic.Uint64 // see DivergencesFound
	repaired atomic.Uint64 // see Repairs

	wake chan struct{} // full while repairLoop has to look; capacity 1

	mu      sync.Mutex
	wrong   *wrongState // nil if no leader has reported a divergence
	repairs []time.Time // ends of the replacements within repairWindow, in order
}

// wrongState is a divergence that a leader has reported.
type wrongState struct {
	replacements uint64 // the report is about the state between this replacement and the next
	own, right   *clusterv1.Checkpoint
}

// exhausted reports whether a node may not replace its state again at a time.
func exhausted(repairs []time.Time, now time.Time) bool {
	recent := 0
	for _, at := range repairs {
		if now.Sub(at) < repairWindow {
			recent++
		}
	}
	return recent >= maxRepairs
}
