package scheduler

import (
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// retryInterval is the time between retries of a proposal.
const retryInterval = 100 * time.Millisecond

// Liveness reports the health of the processes of the nodes.
type Liveness interface {
	// Peer returns the boot id of the process of a node that responded last in this term, how long
	// the node has not responded, and whether the process has certainly ended. bootID is empty if
	// none has responded in this term.
	Peer(name, storeID string) (bootID string, silent time.Duration, dead bool)
	// Stalled returns the operation that a node had not finished at its last response, such as a
	// write of its disk, and how long it has been in progress. stalled is 0 if the node makes
	// progress, or runs a version that does not report it.
	Stalled(name, storeID string) (what string, stalled time.Duration)
	// Takes reports whether the node accepts new attempts by its last response.
	Takes(name, storeID string) bool
	// Member reports whether the node is a member of the cluster.
	Member(name, storeID string) bool
	// PeersChanged returns a channel that is closed when a process responds again or has ended.
	PeersChanged() <-chan struct{}
}

// LeaderOptions are the parts of a Leader.
type LeaderOptions struct {
	Store *builds.Store
	Raft  builds.Raft
	Log   *slog.Logger
	// Now returns the time of the cluster, which a command gets that is committed now. time.Now if
	// nil.
	Now func() time.Time
	// Settings are committed at the start of a term if the state has other ones. May be nil.
	Settings *buildsv1.Settings
	// Nodes reports the health of the nodes.
	Nodes Liveness
	// LostAfter is how long a node may not respond, or make no progress, until its attempts are
	// ended. It is longer than the lease, after which the node itself stops them.
	LostAfter time.Duration
	// Runtime returns the name of the runtime for a source, or "" if there is none.
	Runtime func(*imagebuilderv1.Source) string
	// Adoptable reports whether the workloads of a runtime outlive their node.
	Adoptable func(runtime string) bool
	// Replicas is the number of nodes that hold each log.
	Replicas int
	// FenceTimeout is how long the log of a dead attempt waits for a node that holds a copy. Then
	// it is closed as lost.
	FenceTimeout time.Duration
	// Retention limits how long logs are kept.
	Retention Retention
	// Expired is called with the number of builds whose logs were removed. May be nil.
	Expired func(builds int)
	// Tracer makes the spans of decisions about traced builds. nil disables them.
	Tracer trace.Tracer
}
