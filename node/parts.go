package node

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/faults"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/owner"
	"github.com/image-builder-ha/image-builder/scheduler/refcache"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Parts are what a node takes from its machine and from other systems. A zero field stands for the
// real part, as the configuration describes it. Tests supply their own.
type Parts struct {
	// Log receives the lines of the node's own log; they are discarded if nil.
	Log *slog.Logger
	// Listen opens the ports that the configuration names; net.Listen if nil.
	Listen func(network, address string) (net.Listener, error)
	// Network connects the node to its peers. The node closes it. If nil, the node uses mutual TLS
	// on cluster.address, or is alone without an address.
	Network cluster.Network
	// Storage holds Raft's log and snapshots; the data directory holds them if nil.
	Storage *cluster.Storage
	// LogFS holds the logs of builds; the data directory holds them if nil.
	LogFS logs.FS
	// Now is the clock of the machine, which the cluster's time is derived from; time.Now if nil.
	Now func() time.Time
	// PingInterval and CommitTimeout are those of cluster.Config; its defaults if zero.
	PingInterval, CommitTimeout time.Duration
	// Images reads and publishes images; the registry client of the configuration if nil. With it
	// the node has no uploaded contexts and resolves no git branches.
	Images Images
	// Runtimes run the workloads of attempts, by name; those of the configuration if nil.
	Runtimes map[string]workload.Runtime
	// RuntimeOf selects the runtime of a source; the configuration selects it if nil.
	RuntimeOf func(*imagebuilderv1.Source) string
	// Lead is further work of the leader, which runs beside the node's own in each term. Its context
	// ends with the term.
	Lead []func(ctx context.Context, term *cluster.Term) error
}

// Images is what a node needs of image registries, apart from credentials.
type Images interface {
	builds.Registry
	owner.Publisher
	// Refresh resolves a cached reference with the rights of the install, past all caches.
	Refresh(ctx context.Context, ref string) (refcache.Refreshed, error)
	// Forget drops what is cached of a reference.
	Forget(ref string)
}

func (p *Parts) setDefaults() {
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	if p.Listen == nil {
		p.Listen = net.Listen
	}
	if p.LogFS == nil {
		p.LogFS = faultLogFS()
	}
	if p.Now == nil {
		p.Now = func() time.Time { return faults.Clock(time.Now()) }
	}
}
