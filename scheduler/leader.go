package scheduler

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// LeaderOptions are the parts of the leader's loop.
type LeaderOptions struct {
	Store *builds.Store
	Raft  builds.Raft
	Log   *slog.Logger
	// Now is the time of the cluster: the one of a command that is committed now.
	// time.Now if nil.
	Now func() time.Time
	// Settings are put into force at the start of a term if others are.
	Settings *buildsv1.Settings
	// Nodes tells how the processes of the nodes are.
	Nodes Liveness
	// LostAfter is how long a node must be silent until its attempts are ended:
	// longer than the lease after which it stops them itself.
	LostAfter time.Duration
	// Runtime names the runtime for a source, or "" if there is none.
	Runtime func(*imagebuilderv1.Source) string
	// Adoptable reports whether a runtime's workloads outlive their node.
	Adoptable func(runtime string) bool
	// Replicas is how many nodes hold each log.
	Replicas int
	// FenceTimeout is how long the log of a dead attempt waits for any node
	// that holds a copy, until it is closed as lost.
	FenceTimeout time.Duration
	// Retention is how long logs are kept.
	Retention Retention
	// Expired is told of how many builds the logs were removed; may be nil.
	Expired func(builds int)
	// Tracer makes spans of the decisions about traced builds; nil for none.
	Tracer trace.Tracer
}

// Leader is the loop that only the leader runs.
type Leader struct {
	o LeaderOptions
}

// NewLeader answers a leader loop.
func NewLeader(o LeaderOptions) *Leader {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Leader{o: o}
}

// retryInterval is the pause after a refused or failed proposal.
const retryInterval = 100 * time.Millisecond

// Run decides and commits until ctx, which ends with the leader's term, is
// done. It returns nil then.
func (l *Leader) Run(ctx context.Context) error {
	l.putSettings(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { l.watchNodes(ctx) })
	wg.Go(func() { l.expireLogs(ctx) })
	for ctx.Err() == nil {
		changed, heard := l.o.Store.Changed(), l.o.Nodes.PeersChanged()
		view, now := l.o.Store.View(), l.o.Now()
		d := decide(view, now, rules{
			alive: l.alive, runtime: l.o.Runtime, adoptable: l.o.Adoptable, replicas: l.o.Replicas,
		})
		told := l.trace(ctx, view, now, d)
		done, err := l.commit(ctx, d)
		told(err)
		if err != nil {
			if ctx.Err() == nil {
				l.o.Log.Warn("scheduler cannot commit a decision, will try again", "err", err)
			}
			ctxutil.Sleep(ctx, retryInterval)
			continue
		}
		if done {
			continue
		}
		l.await(ctx, changed, heard, d.wake)
	}
	return nil
}

// await returns at the next change, or when the decision named a time.
func (l *Leader) await(ctx context.Context, changed, heard <-chan struct{}, wake time.Time) {
	d := time.Minute
	if !wake.IsZero() {
		d = min(d, max(wake.Sub(l.o.Now()), time.Millisecond))
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-heard:
	case <-t.C:
	}
}

// commit proposes what was decided. It reports whether there was anything.
func (l *Leader) commit(ctx context.Context, d decision) (bool, error) {
	done := false
	for _, id := range d.overdue {
		if _, _, err := builds.Propose(ctx, l.o.Raft, &buildsv1.StopBuild{
			BuildId: id, Reason: buildsv1.StopReason_STOP_REASON_DEADLINE,
		}); err != nil {
			return false, err
		}
		done = true
	}
	if len(d.assign) > 0 {
		res, _, err := builds.Propose(ctx, l.o.Raft, &buildsv1.AssignAttempt{Assignments: d.assign})
		if err != nil {
			return false, err
		}
		// Assignments that were decided on an older version are decided anew;
		// if all were refused, wait for the change that refused them.
		done = done || res.Refused < len(d.assign)
	}
	if len(d.reassign) > 0 {
		res, _, err := builds.Propose(ctx, l.o.Raft, &buildsv1.Reassign{Assignments: d.reassign})
		if err != nil {
			return false, err
		}
		done = done || res.Refused < len(d.reassign)
	}
	if d.reap {
		if _, _, err := builds.Propose(ctx, l.o.Raft, &buildsv1.Reap{}); err != nil {
			return false, err
		}
		done = true
	}
	return done, nil
}

func (l *Leader) putSettings(ctx context.Context) {
	for ctx.Err() == nil {
		var same bool
		l.o.Store.Read(func(s *builds.State) { same = proto.Equal(s.Settings(), l.o.Settings) })
		if same || l.o.Settings == nil {
			return
		}
		if _, _, err := builds.Propose(ctx, l.o.Raft, &buildsv1.PutSettings{Settings: l.o.Settings}); err == nil {
			return
		}
		ctxutil.Sleep(ctx, retryInterval)
	}
}
