package owner

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Logs writes the logs of attempts and copies them to other nodes.
type Logs interface {
	// Create opens the log of an attempt of b for writing, and starts to copy it to the other nodes
	// that hold it. The secrets s and the refs of b are redacted.
	Create(a *imagebuilderv1.Attempt, b *imagebuilderv1.Build, s *buildsv1.Secrets) (logs.AttemptWriter, error)
	// Fence makes this node's copy of a log refuse all writers of a smaller epoch. It returns the
	// length and the checksum of the copy.
	Fence(key logs.Key, epoch uint64) (length int64, checksum string, err error)
	// Copy starts to copy this node's copy of a log to other nodes. The caller closes the feed.
	Copy(key logs.Key, epoch uint64, copies []*imagebuilderv1.LogCopy) (*logs.Feed, error)
	// Complete makes this node's copy of a log complete at the given length.
	Complete(key logs.Key, length int64) error
	// Completed reports whether this node's copy of a log is complete.
	Completed(key logs.Key) bool
}

// DamagedLogs finds and removes damaged copies of logs.
type DamagedLogs interface {
	// Damaged returns the logs whose copy on this node was found to be damaged, or too short for a
	// complete log, and was not removed since. more is closed when another log is found.
	Damaged() (keys []logs.Key, more <-chan struct{})
	// VerifyCopy reads the copy of a complete log on another node. It returns nil if the copy has
	// the length and the checksum of sealed.
	VerifyCopy(ctx context.Context, key logs.Key, sealed *imagebuilderv1.AttemptLog, at *imagebuilderv1.LogCopy) error
	// RemoveDamaged deletes this node's copy of a log if Damaged still returns it. It keeps a copy
	// that was made in the meantime.
	RemoveDamaged(key logs.Key) error
}

// Publisher tags the images that workloads have pushed.
type Publisher interface {
	// Publish makes the image repository@digest available at ref. It returns nil once the registry
	// shows the image there. Publish may be repeated.
	Publish(ctx context.Context, image, ref string) error
	// Exists reports whether the registry has the image repository@digest.
	Exists(ctx context.Context, image string) (bool, error)
}

// Options are the parts of an Owner. All fields but SealTimeout and Tracer are required.
type Options struct {
	// Node and StoreID name this node as assignments do.
	Node, StoreID string
	Store         *builds.Store
	Raft          builds.Raft
	Keyring       *secrets.Keyring
	Logs          Logs
	DamagedLogs   DamagedLogs
	Publisher     Publisher
	// Runtimes are the runtimes of this node by name.
	Runtimes map[string]workload.Runtime
	Log      *slog.Logger
	// ReplaceAfter is how long a node with a copy of a live log may not respond until another node
	// gets a copy instead.
	ReplaceAfter time.Duration
	// RepairAfter is how long a node may be lost until its complete logs are copied to other nodes.
	RepairAfter time.Duration
	// FenceTimeout is how long a node tries to fence its copy of a log if the log has no other copy
	// on a running node.
	FenceTimeout time.Duration
	// SealTimeout is how long the end of an attempt waits for the copies of its log; 10 s if zero.
	SealTimeout time.Duration
	// Tracer makes the spans of attempts of traced builds. nil disables them.
	Tracer trace.Tracer
}

// Owner runs the attempts that the state assigns to its node.
type Owner struct {
	opts Options

	mu      sync.Mutex
	running map[attemptKey]*runHandle
	// byBuild has the keys of running by build, so that the change of one build does not cost a
	// search in all running attempts.
	byBuild map[string][]attemptKey
	// busyLogs are the logs that are being sealed or completed.
	busyLogs map[attemptKey]bool
	// completing has one element for each task that completes a copy of a log.
	completing chan struct{}
	// suspended means that the lease is lost: workloads that were left running are not adopted.
	suspended bool
	resume    context.CancelFunc // makes follow read the whole state again
	nodes     chan struct{}      // closed and replaced when the state of a node changes
	// copyMissing wakes repairLogs. Its capacity is 1.
	copyMissing chan struct{}
	tasks       sync.WaitGroup
}

// runHandle controls an attempt that runs.
type runHandle struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed once the attempt has ended
}

// attemptKey identifies an attempt of one owner.
type attemptKey struct {
	build   string
	attempt uint32
	epoch   uint64
}

// log returns the key of the attempt's log.
func (k attemptKey) log() logs.Key { return logs.Key{Build: k.build, Attempt: k.attempt} }

// lastKey returns the key of the last attempt of a build.
func lastKey(b *imagebuilderv1.Build) attemptKey {
	a := builds.LastAttempt(b)
	return attemptKey{b.GetId(), a.GetNumber(), a.GetEpoch()}
}

// attemptOf returns the attempt with that key, or nil if it has another epoch in the state.
func attemptOf(view *builds.State, k attemptKey) *imagebuilderv1.Attempt {
	b := view.Build(k.build).GetBuild()
	if int(k.attempt) > len(b.GetAttempts()) || b.Attempts[k.attempt-1].Epoch != k.epoch {
		return nil
	}
	return b.Attempts[k.attempt-1]
}

// New returns an owner that is not running yet.
func New(o Options) *Owner {
	if o.SealTimeout == 0 {
		o.SealTimeout = 10 * time.Second
	}
	return &Owner{
		opts: o, running: map[attemptKey]*runHandle{}, byBuild: map[string][]attemptKey{}, busyLogs: map[attemptKey]bool{}, completing: make(chan struct{}, 4),
		nodes: make(chan struct{}), copyMissing: make(chan struct{}, 1),
	}
}

// retryInterval is the time between retries of a proposal.
const retryInterval = 100 * time.Millisecond

// commit proposes a command, with retries, until the state has accepted or refused it or ctx ends.
// All commands of an owner may be repeated: their epoch and phase make the second one a refusal or
// the same change.
func (o *Owner) commit(ctx context.Context, payload proto.Message) (builds.Result, error) {
	for {
		res, index, err := builds.Propose(ctx, o.opts.Raft, payload)
		if err == nil || index > 0 || ctx.Err() != nil {
			return res, err
		}
		o.opts.Log.Debug("cannot commit, will try again", "err", err)
		ctxutil.Sleep(ctx, retryInterval)
	}
}

// isThis reports whether a node name and a store id are those of this node.
func (o *Owner) isThis(node, storeID string) bool {
	return node == o.opts.Node && storeID == o.opts.StoreID
}

// nodesChanged returns a channel that is closed when the state of any node changes.
func (o *Owner) nodesChanged() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.nodes
}

// Running returns the number of attempts that this node runs.
func (o *Owner) Running() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.running)
}
