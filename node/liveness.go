package node

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/scheduler"
)

// liveness shows the scheduler what the cluster knows.
type liveness struct {
	cluster      *cluster.Node
	restoring *atomic.Bool
}

var _ scheduler.Liveness = liveness{}

func (l liveness) Peer(name, storeID string) (string, time.Duration, bool) {
	p := l.cluster.Peer(name, storeID)
	return p.BootID, p.Silent, p.Dead
}

func (l liveness) Takes(name, storeID string) bool {
	return !l.restoring.Load() && !l.cluster.Peer(name, storeID).RefusesBuilds
}

func (l liveness) Member(name, storeID string) bool {
	return slices.ContainsFunc(l.cluster.Members(), func(m cluster.Member) bool { return m.ServerID == name+"/"+storeID })
}

func (l liveness) PeersChanged() <-chan struct{} { return l.cluster.PeersChanged() }
