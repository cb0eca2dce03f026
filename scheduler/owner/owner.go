package owner

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Logs is what an owner needs of the log store.
type Logs interface {
	// Create opens the log of an attempt for its owner at an epoch, and begins to
	// copy it to the other nodes that hold it. What is removed or redacted
	// follows from the build and its secrets.
	Create(a *imagebuilderv1.Attempt, b *imagebuilderv1.Build, s *buildsv1.Secrets) (logs.AttemptWriter, error)
	// Fence keeps all former owners from writing the log, and answers what this
	// node holds of it.
	Fence(key logs.Key, epoch uint64) (length int64, checksum string, err error)
	// Copy begins to copy what this node holds of a log to other nodes.
	Copy(key logs.Key, epoch uint64, copies []*imagebuilderv1.LogCopy) (*logs.Feed, error)
	// Complete ends this node's copy of a log.
	Complete(key logs.Key, length int64) error
	// Completed reports whether this node's copy of a log is complete.
	Completed(key logs.Key) bool
	// Damaged answers the logs of which this node's copy was found to be damaged,
	// or not all of a complete one, until they are removed; and a channel that is
	// closed when there are more.
	Damaged() (keys []logs.Key, more <-chan struct{})
	// Whole reads the copy of a complete log that another node holds. It answers
	// nil if that is what was sealed.
	Whole(ctx context.Context, key logs.Key, sealed *imagebuilderv1.AttemptLog, at *imagebuilderv1.LogCopy) error
	// RemoveDamaged deletes this node's copy of a log if it is one of Damaged
	// still: it may have been copied anew meanwhile.
	RemoveDamaged(key logs.Key) error
}

// Publisher tags what a workload pushed.
type Publisher interface {
	// Publish makes the image repository@digest available at ref, and returns
	// once the registry shows it there. Publishing again is safe.
	Publish(ctx context.Context, image, ref string) error
	// Exists reports whether the registry has the image repository@digest.
	Exists(ctx context.Context, image string) (bool, error)
}

// OwnerOptions are the parts of a node's owner loop.
type OwnerOptions struct {
	// Node and StoreID name this node as assignments do.
	Node, StoreID string
	Store         *builds.Store
	Raft          builds.Raft
	Keyring       *secrets.Keyring
	Logs          Logs
	Publisher     Publisher
	// Runtimes by name.
	Runtimes map[string]workload.Runtime
	Log      *slog.Logger
	// ReplaceAfter is how long a node that holds a copy of a log may not answer
	// until another one takes its place.
	ReplaceAfter time.Duration
	// RepairAfter is how long a node may be lost until the complete logs that
	// it holds are copied elsewhere.
	RepairAfter time.Duration
	// FenceTimeout is how long a sealer that cannot write its copy of a log, the
	// last one that is left, tries to.
	FenceTimeout time.Duration
	// Tracer makes the spans of attempts of traced builds; nil for none.
	Tracer trace.Tracer
}

// Owner runs the attempts that the state gives to its node.
type Owner struct {
	o OwnerOptions

	mu      sync.Mutex
	running map[attemptKey]*attempt
	// byBuild are the keys of running: a change of one build must not cost a look
	// at all that run.
	byBuild map[string][]attemptKey
	sealing map[attemptKey]bool
	// suspended: the lease is lost; what was left running is not taken up.
	suspended bool
	resume    context.CancelFunc // makes follow look at everything again
	nodes     chan struct{}      // closed and replaced when the state of a node changes
	// copyMissing wakes repairLogs; capacity 1.
	copyMissing chan struct{}
	tasks       sync.WaitGroup
}

type attemptKey struct {
	build   string
	attempt uint32
	epoch   uint64
}

// NewOwner answers an owner loop.
func NewOwner(o OwnerOptions) *Owner {
	return &Owner{o: o, running: map[attemptKey]*attempt{}, byBuild: map[string][]attemptKey{}, sealing: map[attemptKey]bool{}, nodes: make(chan struct{}), copyMissing: make(chan struct{}, 1)}
}

// retryInterval is the pause after a proposal that was refused or failed.
const retryInterval = 100 * time.Millisecond

// Why an attempt's context ended.
var (
	errStopRequested = errors.New("the build was asked to stop")
	errFenced        = errors.New("the attempt has another owner")
	errShutdown      = errors.New("the node shuts down")
	errLease         = errors.New("the node heard no leader for longer than its lease")
)

// Run follows the state until ctx ends, then stops what runs, gives it back to
// the leader, and returns when nothing is left.
func (o *Owner) Run(ctx context.Context) error {
	tasks, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	o.tasks.Go(func() { o.repairLogs(ctx) })
	for ctx.Err() == nil {
		again, resume := context.WithCancel(ctx)
		o.mu.Lock()
		o.resume = resume
		o.mu.Unlock()
		err := o.follow(again, tasks)
		if again.Err() == nil && !errors.Is(err, builds.ErrResubscribe) {
			o.o.Log.Warn("owner loop lost the state, will start again", "err", err)
		}
		resume()
	}
	stop(errShutdown)
	o.tasks.Wait()
	return nil
}

// follow looks at the whole state once, then at every change.
func (o *Owner) follow(ctx, tasks context.Context) error {
	view, sub := o.o.Store.Subscribe()
	view.Live(func(r *buildsv1.Record) bool { o.look(tasks, r); return true })
	view.Sealing(func(r *buildsv1.Record) bool { o.look(tasks, r); return true })
	o.fence(view)
	for {
		ev, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		for _, r := range ev.Changed {
			o.look(tasks, r)
		}
		if ev.Cluster {
			o.mu.Lock()
			close(o.nodes)
			o.nodes = make(chan struct{})
			o.mu.Unlock()
		}
	}
}

// fence ends attempts that the state no longer gives to this node.
func (o *Owner) fence(view *builds.State) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k, at := range o.running {
		if lastKey(view.Build(k.build).GetBuild()) != k {
			at.cancel(errFenced)
		}
	}
}

// look acts on one version of a build.
func (o *Owner) look(tasks context.Context, r *buildsv1.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, k := range o.byBuild[r.Build.Id] {
		if k != lastKey(r.Build) {
			o.running[k].cancel(errFenced)
		}
	}
	for _, a := range r.Build.Attempts {
		k := attemptKey{r.Build.Id, a.Number, a.Epoch}
		mine := a.Owner == o.o.Node && a.OwnerStoreId == o.o.StoreID
		switch {
		case a.Log.GetState() == builds.LogSealing && o.seals(a):
			o.seal(tasks, k, a)
		case a.Log.GetState() == builds.LogSealed && builds.HasCopy(builds.CopiesOf(a), o.o.Node, o.o.StoreID):
			o.complete(k, a)
			o.missesCopy(r.Build.Id, a)
		case !mine || !builds.Live(a.Phase):
		case o.running[k] == nil && (a.Phase == builds.Assigned || a.Adoptable && !o.suspended):
			o.start(tasks, k, r)
		}
	}
	if at := o.running[lastKey(r.Build)]; at != nil && r.StopReason != buildsv1.StopReason_STOP_REASON_UNSPECIFIED {
		at.cancel(errStopRequested)
	}
}

func lastKey(b *imagebuilderv1.Build) attemptKey {
	a := builds.LastAttempt(b)
	return attemptKey{b.GetId(), a.GetNumber(), a.GetEpoch()}
}

// start runs an attempt on a goroutine of its own. The caller holds the lock.
func (o *Owner) start(tasks context.Context, k attemptKey, r *buildsv1.Record) {
	ctx, cancel := context.WithCancelCause(tasks)
	at := &attempt{owner: o, record: r, key: k, cancel: cancel, tasks: tasks, done: make(chan struct{}), refused: map[logs.Copy]time.Time{}}
	o.running[k] = at
	o.byBuild[k.build] = append(o.byBuild[k.build], k)
	o.tasks.Go(func() {
		defer close(at.done)
		defer cancel(nil)
		at.run(ctx)
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.running, k)
		if o.byBuild[k.build] = slices.DeleteFunc(o.byBuild[k.build], func(x attemptKey) bool { return x == k }); len(o.byBuild[k.build]) == 0 {
			delete(o.byBuild, k.build)
		}
	})
}

// commit proposes until the state has answered, a refusal included, or ctx
// ends. All commands of an owner can be repeated: their epoch and phase make
// the second one a refusal or the same change.
func (o *Owner) commit(ctx context.Context, payload proto.Message) (builds.Result, error) {
	for {
		res, index, err := builds.Propose(ctx, o.o.Raft, payload)
		if err == nil || index > 0 || ctx.Err() != nil {
			return res, err
		}
		o.o.Log.Debug("cannot commit, will try again", "err", err)
		ctxutil.Sleep(ctx, retryInterval)
	}
}

// LeaseLost stops everything that runs here: the leader that this node does
// not hear may have given it to others.
func (o *Owner) LeaseLost() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.suspended = true
	for _, at := range o.running {
		at.cancel(errLease)
	}
}

// LeaseHeld tells that a leader is heard again: what is still this node's, and
// has outlived the pause, is taken up.
func (o *Owner) LeaseHeld() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.suspended && o.resume != nil {
		o.resume()
	}
	o.suspended = false
}

// Running answers how many attempts this node runs.
func (o *Owner) Running() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.running)
}
