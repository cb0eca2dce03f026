package cluster

import (
	"sync"
	"time"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// pinged is the last ping of a leader that this node has received.
type pinged struct {
	mu     sync.Mutex
	at     time.Time     // zero if there was none
	silent time.Duration // for which the leader had no response then
}

// note records a ping. Only the pings of a leader to its members have a term.
func (p *pinged) note(req *clusterv1.PingRequest) {
	if req.GetTerm() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.silent = time.Now(), time.Duration(req.GetSilentNanos())
}
