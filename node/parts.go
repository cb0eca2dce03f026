package node

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/transport"
	"github.com/image-builder-ha/image-builder/faults"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/owner"
	"github.com/image-builder-ha/image-builder/scheduler/refcache"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Parts are the things that a node takes from its machine and from other systems. A zero field
// stands for the real part, as the configuration describes it. A test sets the fields that it
// replaces.
type Parts struct {
	// Log receives the node's own log. The node counts the lines by level. If nil, the log is
	// discarded.
	Log *slog.Logger
	// Listen opens a TCP port at an address of the configuration. If nil, it is net.Listen. The
	// node closes the listeners. The unix socket for operators is always opened by package net.
	Listen func(network, address string) (net.Listener, error)
	// Network connects the node to its peers. The node closes it with its cluster. If nil, the node
	// uses mutual TLS on cluster.address, or is alone if that address is empty.
	Network transport.Network
	// Storage holds Raft's log and snapshots. If nil, they are in the data directory.
	Storage *cluster.Storage
	// LogFS holds the logs of builds. If nil, they are in the data directory.
	LogFS logs.FS
	// Now returns the time of the machine, from which the leader derives the time of the cluster.
	// If nil, it is time.Now. Timeouts and intervals always use package time.
	Now func() time.Time
	// PingInterval is how often the leader pings the members. If zero, it is the default of
	// cluster.Config.
	PingInterval time.Duration
	// CommitTimeout is the least interval of the leader's messages to a follower without new
	// entries (cluster.Config). If zero, it is the default of cluster.Config.
	CommitTimeout time.Duration
	// Images resolves, checks and publishes images. If nil, the node opens a registry client from
	// the configuration. If set, Runtimes must be set too, and the node stores no uploaded contexts
	// and resolves no git branches.
	Images Images
	// Runtimes execute attempts. The key is the name of the runtime. If nil, the node opens the
	// runtimes of the configuration. The node closes those that implement io.Closer.
	Runtimes map[string]workload.Runtime
	// RuntimeOf returns the name of the runtime for a source. If nil, the configuration decides
	// (runtimes.ref and runtimes.dockerfile).
	RuntimeOf func(*imagebuilderv1.Source) string
	// Lead is additional work of the leader. The node calls each function in every term that it
	// leads, in a goroutine of its own, beside its own work. The context ends with the term, and
	// the function must return then.
	Lead []func(ctx context.Context, term *cluster.Term) error
}

// Images resolves, checks and publishes images in registries. The registry client behind it has the
// credentials.
type Images interface {
	api.Registry
	owner.Publisher
	// Refresh resolves a cached reference with the rights of the install. It always queries the
	// registry.
	Refresh(ctx context.Context, ref string) (refcache.Refreshed, error)
	// Forget drops a reference from the cache, so that the next lookup queries the registry. It
	// must not block.
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
