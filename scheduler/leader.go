package scheduler

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Leader is the loop of the leader. Only the leader runs it, for one term.
type Leader struct {
	opts LeaderOptions
}

// NewLeader returns a leader that is not running yet.
func NewLeader(o LeaderOptions) *Leader {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Leader{opts: o}
}

// Run decides and commits until ctx ends, at the end of the term. Then it returns nil.
func (l *Leader) Run(ctx context.Context) error {
	o := l.opts
	var level uint32
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { watchNodes(ctx, o) })
	wg.Go(func() { l.expireLogs(ctx) })
	for ctx.Err() == nil {
		changed, peersChanged := o.Store.Changed(), o.Nodes.PeersChanged()
		view, now := o.Store.View(), o.Now()
		if view.Level() != level { // the new level may have more settings
			level = view.Level()
			l.putSettings(ctx)
			continue
		}
		d := decide(view, now, rules{
			alive: l.alive, runtime: o.Runtime, adoptable: o.Adoptable, replicas: o.Replicas,
		})
		endSpans := traceDecision(ctx, o.Tracer, view, now, d)
		done, err := l.commit(ctx, d)
		endSpans(err)
		if err != nil {
			if ctx.Err() == nil {
				o.Log.Warn("scheduler cannot commit a decision, will try again", "err", err)
			}
			ctxutil.Sleep(ctx, retryInterval)
			continue
		}
		if done {
			continue
		}
		l.await(ctx, changed, peersChanged, d.wake)
	}
	return nil
}

// alive reports whether a node can get attempts now.
func (l *Leader) alive(n *buildsv1.Node) bool {
	if n.Lost || n.Stopping {
		return false
	}
	_, silent, dead := l.opts.Nodes.Peer(n.Name, n.StoreId)
	_, stalled := l.opts.Nodes.Stalled(n.Name, n.StoreId)
	return !dead && silent < l.opts.LostAfter/2 && stalled < l.opts.LostAfter/2 && l.opts.Nodes.Takes(n.Name, n.StoreId)
}

// await blocks until the next change, or until wake if it is not zero, for at most a minute.
func (l *Leader) await(ctx context.Context, changed, peersChanged <-chan struct{}, wake time.Time) {
	d := time.Minute
	if !wake.IsZero() {
		d = min(d, max(wake.Sub(l.opts.Now()), time.Millisecond))
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-peersChanged:
	case <-t.C:
	}
}

// commit proposes the commands of a decision, first those that start builds. It reports whether the
// state has changed.
func (l *Leader) commit(ctx context.Context, d decision) (done bool, err error) {
	if len(d.assign) > 0 {
		res, _, err := builds.Propose(ctx, l.opts.Raft, &buildsv1.AssignAttempt{Assignments: d.assign})
		if err != nil {
			return false, err
		}
		// Assignments on an old version of a build are refused and decided again. If all were
		// refused, the caller waits for the change that refused them.
		done = done || res.Refused < len(d.assign)
	}
	if len(d.reassign) > 0 {
		res, _, err := builds.Propose(ctx, l.opts.Raft, &buildsv1.Reassign{Assignments: d.reassign})
		if err != nil {
			return false, err
		}
		done = done || res.Refused < len(d.reassign)
	}
	if len(d.overdue) > 0 {
		stopped, err := l.stopOverdue(ctx, d.overdue)
		if err != nil {
			return false, err
		}
		done = done || stopped
	}
	if len(d.revoke) > 0 {
		if err := l.revoke(ctx, d.revoke); err != nil {
			return false, err
		}
		done = true
	}
	if d.reap {
		if _, _, err := builds.Propose(ctx, l.opts.Raft, &buildsv1.Reap{}); err != nil {
			return false, err
		}
		done = true
	}
	return done, nil
}

// stopOverdue stops builds whose deadline has passed. It reports whether one of them was not stopped
// before. Below the feature level of the batch it stops the first few, one by one.
func (l *Leader) stopOverdue(ctx context.Context, ids []string) (bool, error) {
	var batches bool
	l.opts.Store.Read(func(s *builds.State) { batches = s.StopsInBatches() })
	if batches {
		res, _, err := builds.Propose(ctx, l.opts.Raft, &buildsv1.StopOverdue{BuildIds: ids})
		return res.Refused < len(ids), err
	}
	done := false
	for _, id := range ids[:min(len(ids), maxStopped)] {
		_, _, err := builds.Propose(ctx, l.opts.Raft, &buildsv1.StopBuild{BuildId: id, Reason: buildsv1.StopReason_STOP_REASON_DEADLINE})
		if err != nil && !errors.Is(err, builds.ErrNotDue) && !errors.Is(err, builds.ErrNotFound) {
			return false, err
		}
		done = done || err == nil
	}
	return done, nil
}

// revoke ends attempts that their owners should have stopped. It proposes them together, so that
// they share writes of the replicated log.
func (l *Leader) revoke(ctx context.Context, attempts []*buildsv1.RevokeAttempt) error {
	var g errgroup.Group
	for _, c := range attempts { // at most maxRevoked
		g.Go(func() error {
			_, _, err := builds.Propose(ctx, l.opts.Raft, c)
			if err == nil {
				l.opts.Log.Warn("the owner of an attempt did not stop it in time: the leader ended it", "build", c.BuildId, "attempt", c.Attempt, "epoch", c.Epoch)
			}
			if errors.Is(err, builds.ErrFenced) || errors.Is(err, builds.ErrNotFound) { // the owner has ended it meanwhile
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// putSettings commits the settings that versions of the committed feature level know, if the state
// has other ones. It retries until ctx ends.
func (l *Leader) putSettings(ctx context.Context) {
	if l.opts.Settings == nil {
		return
	}
	for ctx.Err() == nil {
		view := l.opts.Store.View()
		set := builds.SettingsAt(l.opts.Settings, view.Level())
		if proto.Equal(view.Settings(), set) {
			return
		}
		if _, _, err := builds.Propose(ctx, l.opts.Raft, &buildsv1.PutSettings{Settings: set}); err == nil {
			return
		}
		ctxutil.Sleep(ctx, retryInterval)
	}
}

// expireLogs commits the removal of logs that retention does not keep, until ctx ends.
func (l *Leader) expireLogs(ctx context.Context) {
	o, r := l.opts, l.opts.Retention
	if r == (Retention{}) {
		return
	}
	for ctx.Err() == nil {
		ids := r.expired(o.Store.View(), o.Now())
		if len(ids) == 0 {
			ctxutil.Sleep(ctx, r.interval())
			continue
		}
		if _, _, err := builds.Propose(ctx, o.Raft, &buildsv1.ExpireLogs{BuildIds: ids}); err != nil {
			if ctx.Err() == nil {
				o.Log.Warn("cannot commit the removal of logs by retention, will try again", "err", err)
			}
			ctxutil.Sleep(ctx, retryInterval)
			continue
		}
		o.Log.Info("logs of builds are removed by retention", "builds", len(ids), "oldest", ids[0])
		if o.Expired != nil {
			o.Expired(len(ids))
		}
	}
}
